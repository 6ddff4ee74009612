#include "core.h"

#include "board.h"
#include "protocol.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYST_CSR REGISTER(0xE000E010u)
#define SYST_RVR REGISTER(0xE000E014u)
#define SYST_CVR REGISTER(0xE000E018u)
#define VTOR REGISTER(0xE000ED08u)
#define AIRCR REGISTER(0xE000ED0Cu)
#define SHCSR REGISTER(0xE000ED24u)
#define CFSR REGISTER(0xE000ED28u)
#define HFSR REGISTER(0xE000ED2Cu)
#define MMFAR REGISTER(0xE000ED34u)
#define BFAR REGISTER(0xE000ED38u)
#define CPACR REGISTER(0xE000ED88u)
#define MPU_CTRL REGISTER(0xE000ED94u)
#define MPU_RNR REGISTER(0xE000ED98u)
#define MPU_RBAR REGISTER(0xE000ED9Cu)
#define MPU_RASR REGISTER(0xE000EDA0u)
#if defined(__ARM_ARCH_8M_MAIN__)
#define ARMV8M 1
#else
#define ARMV8M 0
#endif

#define RELOAD 0xFFFFFFu
#define PAINT 0xC0DEC0DEu
#define STACKING_FAILED (1u << 4 | 1u << 12) /* MSTKERR, STKERR of CFSR */

extern uint32_t link_stack_limit[], link_stack_top[], link_handler_stack_top[];
extern uint32_t link_data_load[], link_data[], link_data_end[], link_bss[], link_bss_end[];
extern void (*const link_init_array[])(void), (*const link_init_array_end[])(void);
extern void *const core_vectors[];

static volatile uint32_t overflows;

void core_systick(void);
void core_systick(void)
{
    overflows++;
}

uint64_t core_ticks(void)
{
    uint32_t high, low;
    do {
        high = overflows;
        low = SYST_CVR;
    } while (high != overflows);
    return ((uint64_t)high << 24) + (RELOAD - low);
}

void core_restart_clock(void)
{
    SYST_CSR = 0;
    overflows = 0;
    SYST_RVR = RELOAD;
    SYST_CVR = 0;
    SYST_CSR = 7; /* on, with interrupts, by the core's clock */
    for (int i = 0; i < 1000 && SYST_CVR == 0; i++) {
        /* the first reload takes a moment */
    }
}

void core_paint_stack(void)
{
    const uint32_t *const end = &((const uint32_t *)__builtin_frame_address(0))[-16];
    for (volatile uint32_t *at = link_stack_limit; at < end; at++)
        *at = PAINT;
}

uint32_t core_stack_used(void)
{
    const volatile uint32_t *at = link_stack_limit;
    while (at < link_stack_top && *at == PAINT)
        at++;
    return (uint32_t)((uintptr_t)link_stack_top - (uintptr_t)at);
}

void core_reset(void)
{
    __asm__ volatile("dsb" ::: "memory");
    AIRCR = 0x05FA0004u;
    for (;;) {
    }
}

/* Threads have a stack of their own, at the bottom of the memory: one that overflows comes to
 * addresses that are forbidden, and the handler, on the other stack, can still say so. */
__attribute__((naked, used)) void core_start(void);
__attribute__((naked, used)) void core_start(void)
{
    __asm__ volatile("ldr r0, =link_stack_top\n\t"
                     "msr psp, r0\n\t"
#if ARMV8M
                     "ldr r0, =link_stack_limit\n\t"
                     "msr psplim, r0\n\t"
#endif
                     "movs r0, #2\n\t"
                     "msr control, r0\n\t"
                     "isb\n\t"
                     "b core_prepare");
}

/* No access to the 64 KiB below the memory; everywhere else what the core allows by default. The
 * Armv8-M cores have a limit of the stack in a register instead, see core_start. */
static void guard(void)
{
#if !ARMV8M
    MPU_RNR = 0;
    MPU_RBAR = BOARD_RAM_ORIGIN - 0x10000u;
    MPU_RASR = 1u << 28 | 15u << 1 | 1u; /* execute never, no access, 2^16 bytes, on */
    MPU_CTRL = 5;                        /* default map, on */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
}

void core_prepare(void);
void core_prepare(void)
{
    const uint32_t *from = link_data_load;
#if defined(__ARM_FP)
    CPACR |= 0xFu << 20; /* the floating-point unit */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
    VTOR = (uint32_t)(uintptr_t)core_vectors;
    SHCSR |= 7u << 16; /* faults of memory, bus and usage by their own names */
    guard();
    for (volatile uint32_t *to = link_data; to < link_data_end;)
        *to++ = *from++;
    for (volatile uint32_t *to = link_bss; to < link_bss_end;)
        *to++ = 0;
    board_start();
    core_restart_clock();
    for (void (*const *function)(void) = link_init_array; function < link_init_array_end;)
        (*function++)();
    main();
    core_reset();
}

/* Tells the host what happened, again whenever it asks, until it resets the board. The payload is 15
 * words: r0 to r3, r12, lr, pc, psr as the core saved them, CFSR, HFSR, MMFAR, BFAR, the stack
 * pointer, the lowest address of the stack, and whether the core could save its registers. */
void core_fault(uint32_t psp, uint32_t msp, uint32_t exc_return);
void core_fault(uint32_t psp, uint32_t msp, uint32_t exc_return)
{
    uint32_t words[15] = {0};
    const uint32_t sp = exc_return & 4 ? psp : msp;
    const int saved = (CFSR & STACKING_FAILED) == 0 && sp >= BOARD_RAM_ORIGIN &&
                      sp <= BOARD_RAM_ORIGIN + BOARD_RAM_BYTES - 32 && sp % 4 == 0;
    for (int i = 0; i < 8 && saved; i++)
        words[i] = ((const uint32_t *)(uintptr_t)sp)[i];
    words[8] = CFSR;
    words[9] = HFSR;
    words[10] = MMFAR;
    words[11] = BFAR;
    words[12] = sp;
    words[13] = (uint32_t)(uintptr_t)link_stack_limit;
    words[14] = (uint32_t)saved;
    for (;;) {
        protocol_send(PROTOCOL_FAULT, protocol_last.sequence, 0, words, sizeof words);
        while (protocol_receive(&protocol_last, BOARD_TICKS_HZ) != 1) {
        }
        if (protocol_last.kind == PROTOCOL_RESET)
            core_reset();
    }
}

void core_trap(void);
__attribute__((naked)) void core_trap(void)
{
    __asm__ volatile("mrs r0, psp\n\tmrs r1, msp\n\tmov r2, lr\n\tb core_fault");
}

__attribute__((section(".vectors"), used)) void *const core_vectors[16] = {
    link_handler_stack_top, /* then: */
    (void *)core_start,     /* reset */
    (void *)core_trap,      /* non-maskable */
    (void *)core_trap,      /* hard fault */
    (void *)core_trap,      /* memory */
    (void *)core_trap,      /* bus */
    (void *)core_trap,      /* usage */
    0,
    0,
    0,
    0,
    (void *)core_trap, /* supervisor call */
    (void *)core_trap, /* debug */
    0,
    (void *)core_trap, /* pending */
    (void *)core_systick,
};
