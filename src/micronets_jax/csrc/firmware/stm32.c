/* STM32F4 and STM32F7: full clock with overdrive, flash accelerator or caches, serial port.
 *
 * After RM0390 (STM32F446), RM0385 (STM32F746) and RM0410 (STM32F767), whose RCC, PWR, FLASH and GPIO
 * are at the same places; the serial port has two generations. The numbers come from board.h.
 * Every wait is bounded. If the external clock or the phase-locked loop does not come up, the board
 * goes on with the internal 16 MHz, slower, and says so. */
#include "board.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define RCC 0x40023800u
#define RCC_CR REGISTER(RCC + 0x00)
#define RCC_PLLCFGR REGISTER(RCC + 0x04)
#define RCC_CFGR REGISTER(RCC + 0x08)
#define RCC_AHB1ENR REGISTER(RCC + 0x30)
#define RCC_APB1ENR REGISTER(RCC + 0x40)
#define PWR_CR REGISTER(0x40007000u)  /* PWR_CR1 on the F7 */
#define PWR_CSR REGISTER(0x40007004u) /* PWR_CSR1 */
#define FLASH_ACR REGISTER(0x40023C00u)
#define GPIO(port, offset) REGISTER(0x40020000u + 0x400u * (port) + (offset))
#define USART(offset) REGISTER(BOARD_USART + (offset))

#define HSI_HZ 16000000u
#define HSE_ON (1u << 16)
#define HSE_READY (1u << 17)
#define HSE_BYPASS (1u << 18)
#define PLL_ON (1u << 24)
#define PLL_READY (1u << 25)
#define OVERDRIVE (1u << 16)        /* ODEN, and ODRDY of the status */
#define OVERDRIVE_SWITCH (1u << 17) /* ODSWEN, ODSWRDY */
#define RCC_PWR (1u << 28)

static uint32_t hz = HSI_HZ;
static const char *source = "internal 16 MHz, the loop did not lock";

static int await(volatile uint32_t *place, uint32_t mask, uint32_t value)
{
    for (uint32_t i = 0; i < BOARD_WAIT; i++)
        if ((*place & mask) == value)
            return 1;
    return 0;
}

#if BOARD_CACHES
#define CLIDR_CCSIDR REGISTER(0xE000ED80u)
#define CSSELR REGISTER(0xE000ED84u)
#define CCR REGISTER(0xE000ED14u)
#define ICIALLU REGISTER(0xE000EF50u)
#define DCISW REGISTER(0xE000EF60u)

/* Both caches hold anything after reset: empty first, by sets and ways, then on. */
static void caches(void)
{
    uint32_t sizes;
    ICIALLU = 0;
    CSSELR = 0;
    __asm__ volatile("dsb" ::: "memory");
    sizes = CLIDR_CCSIDR;
    for (uint32_t set = 0; set <= (sizes >> 13 & 0x7FFF); set++)
        for (uint32_t way = 0; way <= (sizes >> 3 & 0x3FF); way++)
            DCISW = way << 30 | set << 5; /* four ways, lines of 32 bytes */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    CCR |= 3u << 16;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
}
#endif

static int full_clock(void)
{
    uint32_t divider = BOARD_PLL_M * HSI_HZ / BOARD_HSE_HZ, from_hse = 0;
    RCC_APB1ENR |= RCC_PWR;
    (void)RCC_APB1ENR;  /* a clock needs two cycles until its registers can be written */
    PWR_CR |= 3u << 14; /* voltage scale 1 */
    RCC_CR |= HSE_BYPASS;
    RCC_CR |= HSE_ON; /* 8 MHz from the debugger on the same board */
    if (await(&RCC_CR, HSE_READY, HSE_READY)) {
        divider = BOARD_PLL_M;
        from_hse = 1;
    }
    RCC_PLLCFGR = divider | BOARD_PLL_N << 6 | (BOARD_PLL_P / 2 - 1) << 16 | from_hse << 22 |
                  BOARD_PLL_Q << 24 | 2u << 28;
    RCC_CR |= PLL_ON;
    PWR_CR |= OVERDRIVE;
    if (!await(&PWR_CSR, OVERDRIVE, OVERDRIVE))
        return 0;
    PWR_CR |= OVERDRIVE_SWITCH;
    if (!await(&PWR_CSR, OVERDRIVE_SWITCH, OVERDRIVE_SWITCH))
        return 0;
    if (!await(&RCC_CR, PLL_READY, PLL_READY))
        return 0;
    FLASH_ACR = BOARD_FLASH_ACR; /* more wait states before the clock rises */
    if (!await(&FLASH_ACR, 0xF, BOARD_FLASH_ACR & 0xF))
        return 0;
    RCC_CFGR = 5u << 10 | 4u << 13; /* APB1 a quarter, APB2 half of the clock */
    RCC_CFGR |= 2;                  /* the loop drives the core */
    if (!await(&RCC_CFGR, 3u << 2, 2u << 2)) {
        RCC_CFGR &= ~3u;
        return 0;
    }
    source = from_hse ? "8 MHz of the debugger" : "internal 16 MHz";
    return 1;
}

static void serial_port(uint32_t clock)
{
    RCC_AHB1ENR |= 1u << BOARD_GPIO_PORT;
    RCC_APB1ENR |= 1u << BOARD_USART_ENABLE;
    (void)RCC_APB1ENR;
    for (int i = 0; i < 2; i++) {
        const uint32_t pin = i ? BOARD_RX_PIN : BOARD_TX_PIN;
        const uint32_t shift = 4 * (pin % 8), offset = pin < 8 ? 0x20 : 0x24;
        uint32_t mode = GPIO(BOARD_GPIO_PORT, 0x00) & ~(3u << (2 * pin));
        uint32_t function = GPIO(BOARD_GPIO_PORT, offset) & ~(15u << shift);
        GPIO(BOARD_GPIO_PORT, offset) = function | 7u << shift;
        GPIO(BOARD_GPIO_PORT, 0x00) = mode | 2u << (2 * pin);
    }
#if BOARD_USART_GENERATION == 1
    USART(0x08) = (clock + BOARD_BAUD / 2) / BOARD_BAUD; /* BRR */
    USART(0x0C) = 1u << 13 | 1u << 3 | 1u << 2;          /* CR1: on, send, receive */
#else
    USART(0x0C) = (clock + BOARD_BAUD / 2) / BOARD_BAUD; /* BRR */
    USART(0x00) = 1u << 0 | 1u << 3 | 1u << 2;           /* CR1 */
#endif
}

void board_start(void)
{
    const int full = full_clock();
#if BOARD_CACHES
    caches();
#endif
    if (full)
        hz = BOARD_TICKS_HZ;
    serial_port(full ? hz / 4 : hz);
}

uint32_t board_ticks_hz(void)
{
    return hz;
}

const char *board_clock(void)
{
    return source;
}

#if BOARD_USART_GENERATION == 1
#define STATUS USART(0x00)
#define RECEIVED USART(0x04)
#define SEND USART(0x04)
#else
#define STATUS USART(0x1C)
#define RECEIVED USART(0x24)
#define SEND USART(0x28)
#endif

int board_get(void)
{
    const uint32_t status = STATUS;
#if BOARD_USART_GENERATION == 2
    if (status & 8)       /* a byte was lost: the port waits until this is noticed */
        USART(0x20) = 8;  /* on the first generation, reading the data is enough */
#endif
    return status & (1u << 5) ? (int)(RECEIVED & 0xFF) : -1;
}

void board_put(uint8_t byte)
{
    for (uint32_t i = 0; i < BOARD_WAIT && !(STATUS & 1u << 7); i++) {
    }
    SEND = byte;
}
