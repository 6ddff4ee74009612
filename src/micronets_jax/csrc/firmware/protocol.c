#include "protocol.h"

#include "board.h"
#include "core.h"

#define HEADER 12

struct protocol_frame protocol_last;

static uint32_t crc32(uint32_t crc, const uint8_t *bytes, uint32_t length)
{
    while (length--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return crc;
}

static uint32_t checksum(const uint8_t *bytes, uint32_t length)
{
    return ~crc32(0xFFFFFFFFu, bytes, length);
}

static uint32_t word(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* The next byte, or -1 if none comes within `wait` ticks. */
static int byte_within(uint64_t wait)
{
    const uint64_t start = core_ticks();
    do {
        const int byte = board_get();
        if (byte >= 0)
            return byte;
    } while (core_ticks() - start < wait);
    return -1;
}

int protocol_receive(struct protocol_frame *frame, uint64_t ticks)
{
    const uint64_t between_bytes = BOARD_TICKS_HZ / 10;
    uint8_t header[HEADER] = {0}, tail[4];
    int byte = byte_within(ticks);
    for (;; byte = byte_within(between_bytes)) {
        if (byte < 0)
            return 0;
        for (int i = 1; i < HEADER; i++)
            header[i - 1] = header[i];
        header[HEADER - 1] = (uint8_t)byte;
        if (header[0] != 0xA5 || header[1] != 0x5A)
            continue;
        frame->length = (uint16_t)(header[8] | header[9] << 8);
        if (frame->length <= PROTOCOL_CHUNK &&
            (checksum(header + 2, 8) & 0xFFFFu) == (uint32_t)(header[10] | header[11] << 8))
            break;
    }
    frame->kind = header[2];
    frame->sequence = header[3];
    frame->argument = word(header + 4);
    if (frame->length == 0)
        return 1;
    for (uint32_t i = 0; i < frame->length + 4u; i++) {
        byte = byte_within(between_bytes);
        if (byte < 0)
            return -1;
        if (i < frame->length)
            frame->payload[i] = (uint8_t)byte;
        else
            tail[i - frame->length] = (uint8_t)byte;
    }
    return checksum(frame->payload, frame->length) == word(tail) ? 1 : -1;
}

static void put(const uint8_t *bytes, uint32_t length)
{
    while (length--)
        board_put(*bytes++);
}

static void store(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

void protocol_send(uint8_t kind, uint8_t sequence, uint32_t argument, const void *payload,
                   uint32_t length)
{
    uint8_t header[HEADER] = {0xA5, 0x5A, kind, sequence}, tail[4];
    uint32_t check;
    store(header + 4, argument);
    header[8] = (uint8_t)length;
    header[9] = (uint8_t)(length >> 8);
    check = checksum(header + 2, 8);
    header[10] = (uint8_t)check;
    header[11] = (uint8_t)(check >> 8);
    put(header, HEADER);
    if (length == 0)
        return;
    put(payload, length);
    store(tail, checksum(payload, length));
    put(tail, 4);
}
