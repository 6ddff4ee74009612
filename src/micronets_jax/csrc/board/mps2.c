/* Runs a compiled model once on an emulated mps2 board and reports through semihosting.
 *
 * With one instruction per nanosecond, a tick of SysTick at 25 MHz is 40 instructions. The report is
 * one line per item: "total TICKS", "stack BYTES", "layer INDEX TICKS", "output INDEX HEX", and
 * "end STATUS". A fault is reported as "fault ..." with the registers the core saved. */
#include "model.h"

#include <stdint.h>

extern char __stack_limit[], __stack_top[];
extern const uint8_t input_begin[], input_end[];
extern const int32_t input_bytes[MODEL_NUM_INPUTS], output_bytes[MODEL_NUM_OUTPUTS];

static uint64_t arena[(MODEL_ARENA_BYTES + 7) / 8];

#define SYST_CSR (*(volatile uint32_t *)0xE000E010)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018)
#define CFSR (*(volatile uint32_t *)0xE000ED28)
#define BFAR (*(volatile uint32_t *)0xE000ED38)
#define CPACR (*(volatile uint32_t *)0xE000ED88)
#define RELOAD 0xFFFFFFu

static volatile uint32_t overflows;

void systick(void);
void systick(void)
{
    overflows++;
}

static uint64_t ticks(void)
{
    uint32_t high, low;
    do {
        high = overflows;
        low = SYST_CVR;
    } while (high != overflows);
    return ((uint64_t)high << 24) + (RELOAD - low);
}

static void semihost(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

static char line[128];
static int at;

static void flush(void)
{
    line[at] = 0;
    semihost(4, line); /* SYS_WRITE0 */
    at = 0;
}

static void put(const char *text)
{
    while (*text) {
        line[at++] = *text++;
        if (at > 120)
            flush();
    }
}

static void number(uint64_t value)
{
    char digits[24];
    int i = 23;
    digits[i] = 0;
    do {
        digits[--i] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    put(digits + i);
}

static void hex(uint32_t value, int digits)
{
    char text[9];
    for (int i = 0; i < digits; i++)
        text[i] = "0123456789abcdef"[value >> (4 * (digits - 1 - i)) & 15];
    text[digits] = 0;
    put(text);
}

static void leave(int status)
{
    static const uint32_t done = 0x20026; /* application exit */
    put("end ");
    number((uint64_t)(uint32_t)status);
    put("\n");
    flush();
    semihost(0x18, (const void *)(uintptr_t)done);
    for (;;) {
    }
}

#ifdef MPS2_LAYERS
static uint64_t marks[MPS2_LAYERS + 1];
void mn_hook(int layer, void *unused);
void mn_hook(int layer, void *unused)
{
    (void)unused;
    marks[layer + 1] = ticks();
}
#endif

static void run(void)
{
    const uint8_t *from = input_begin;
    uint32_t *paint;
    uint64_t start, stop;
    int status;
    for (int i = 0; i < MODEL_NUM_INPUTS; i++) {
        uint8_t *to = model_input(arena, i);
        for (int32_t left = input_bytes[i]; left > 0; left--)
            *to++ = *from++;
    }
    SYST_RVR = RELOAD;
    SYST_CVR = 0;
    SYST_CSR = 7;
    while (SYST_CVR == 0) { /* the first reload takes a moment */
    }
    for (paint = (uint32_t *)(void *)__stack_limit; paint < &((uint32_t *)__builtin_frame_address(0))[-16];)
        *paint++ = 0xC0DEC0DEu;
    start = ticks();
#ifdef MPS2_LAYERS
    marks[0] = start;
#endif
    status = model_run(arena);
    stop = ticks();
    for (paint = (uint32_t *)(void *)__stack_limit; *paint == 0xC0DEC0DEu;)
        paint++;
    put("total ");
    number(stop - start);
    put("\nstack ");
    number((uint64_t)((char *)__builtin_frame_address(0) - (char *)paint));
    put("\n");
#ifdef MPS2_LAYERS
    for (int i = 0; i < MPS2_LAYERS; i++) {
        put("layer ");
        number((uint64_t)i);
        put(" ");
        number(marks[i + 1] - marks[i]);
        put("\n");
    }
#endif
    for (int i = 0; i < MODEL_NUM_OUTPUTS; i++) {
        const uint8_t *out = model_output(arena, i);
        put("output ");
        number((uint64_t)i);
        put(" ");
        for (int32_t j = 0; j < output_bytes[i]; j++)
            hex(out[j], 2);
        put("\n");
    }
    leave(status);
}

void reset(void);
void reset(void)
{
    CPACR |= 0xFu << 20; /* the floating-point unit, for models with float ends */
    __asm__ volatile("dsb\n\tisb");
    run();
}

void report_fault(const uint32_t *frame);
void report_fault(const uint32_t *frame)
{
    static const char *const names[] = {"r0", "r1", "r2", "r3", "r12", "lr", "pc", "psr"};
    put("fault cfsr=");
    hex(CFSR, 8);
    put(" address=");
    hex(BFAR, 8);
    for (int i = 0; i < 8; i++) {
        put(" ");
        put(names[i]);
        put("=");
        hex(frame[i], 8);
    }
    put("\n");
    leave(99);
}

void fault(void);
__attribute__((naked)) void fault(void)
{
    __asm__ volatile("mrs r0, msp\n\tb report_fault");
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    __stack_top,        (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
    (void *)fault,      0,             0,             0,             0,             (void *)fault,
    (void *)fault,      0,             (void *)fault, (void *)systick,
};
