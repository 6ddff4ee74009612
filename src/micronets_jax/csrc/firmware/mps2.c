/* The emulated MPS2 boards: no clocks to set, a serial port of the CMSDK. */
#include "board.h"

#define REGISTER(offset) (*(volatile uint32_t *)(BOARD_UART + (offset)))
#define DATA REGISTER(0x00)
#define STATE REGISTER(0x04)
#define CTRL REGISTER(0x08)
#define BAUDDIV REGISTER(0x10)

void board_start(void)
{
    BAUDDIV = BOARD_TICKS_HZ / BOARD_BAUD;
    CTRL = 3; /* send and receive */
}

uint32_t board_ticks_hz(void)
{
    return BOARD_TICKS_HZ;
}

const char *board_clock(void)
{
    return "emulated";
}

int board_get(void)
{
    return STATE & 2 ? (int)(DATA & 0xFF) : -1;
}

void board_put(uint8_t byte)
{
    for (uint32_t i = 0; i < BOARD_WAIT && (STATE & 1); i++) {
    }
    DATA = byte;
}
