/* Frames between a host and the board, the same in both directions, little-endian:
 *
 *     0xA5 0x5A  kind  sequence  argument[4]  length[2]  check[2]  payload[length]  crc[4]
 *
 * `check` is the low half of the CRC-32 of kind to length, `crc` the CRC-32 of the payload (absent if
 * length is 0). A receiver slides over whatever comes until a header checks, so garbage, lost bytes
 * and resets cost one frame and never the line. The host asks, the board answers with the same
 * sequence; every wait of the board is bounded. */
#ifndef PROTOCOL_H
#define PROTOCOL_H

#include <stdint.h>

#define PROTOCOL_VERSION 1
#define PROTOCOL_CHUNK 512 /* longest payload */

enum protocol_kind {
    PROTOCOL_HELLO = 1,        /* -> text, a "name value" per line */
    PROTOCOL_LOAD = 2,         /* argument: offset in all inputs; payload: bytes */
    PROTOCOL_AUDIO = 3,        /* argument: index of the first sample; payload: int16 samples -> where
                                  the model takes rows, features of the frames that they complete */
    PROTOCOL_RUN = 4,          /* argument: 0 what was loaded, 1 the built-in input -> struct done */
    PROTOCOL_READ_OUTPUT = 5,  /* argument: offset in all outputs -> bytes */
    PROTOCOL_READ_INPUT = 6,   /* the same of inputs, before a run */
    PROTOCOL_READ_LAYERS = 7,  /* argument: offset -> uint64 ticks after every layer */
    PROTOCOL_RESET = 8,        /* the board starts again and answers nothing */
    PROTOCOL_FORGET = 9,       /* a model with state begins anew, and so does the audio */
    PROTOCOL_LISTEN = 10,      /* the same as AUDIO of a stream without end -> struct heard */
    PROTOCOL_REPLY = 0x80,     /* added to the kind of the request */
    PROTOCOL_WORD = 0xFC,      /* nobody asked: text, a "name value" per line, of a word just told */
    PROTOCOL_FAULT = 0xFD,     /* payload: see core.c */
    PROTOCOL_DAMAGED = 0xFE,   /* the payload of a request did not check: send it again */
    PROTOCOL_ERROR = 0xFF      /* payload: a sentence */
};

struct protocol_frame {
    uint8_t kind, sequence;
    uint16_t length;
    uint32_t argument;
    uint8_t payload[PROTOCOL_CHUNK];
};

extern struct protocol_frame protocol_last; /* the one buffer there is */

/* 1 if a frame came, 0 if `ticks` passed without one, -1 if its payload was damaged or cut off. */
int protocol_receive(struct protocol_frame *frame, uint64_t ticks);
void protocol_send(uint8_t kind, uint8_t sequence, uint32_t argument, const void *payload,
                   uint32_t length);

#endif
