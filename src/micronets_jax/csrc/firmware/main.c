/* Answers a host on the serial port; if none speaks within a second, runs the built-in input once and
 * prints the result for people. */
#include "board.h"
#include "config.h"
#include "core.h"
#include "engine.h"
#include "protocol.h"

#include <string.h>

#if FIRMWARE_AUDIO
#include "frontend.h"
#include "tables.h"
#endif
#if FIRMWARE_LISTENING
#include "hearing.h"
#include "listening.h"
#endif

static const uint32_t input_bytes[] = {FIRMWARE_INPUT_BYTES};
static const uint32_t output_bytes[] = {FIRMWARE_OUTPUT_BYTES};
#if !FIRMWARE_AUDIO
static const uint8_t input_floats[] = {FIRMWARE_INPUT_FLOATS};
#endif
#define INPUTS ((int)(sizeof input_bytes / sizeof *input_bytes))
#define OUTPUTS ((int)(sizeof output_bytes / sizeof *output_bytes))

/* What a run took, as it is sent. */
static struct {
    uint64_t ticks, frontend_ticks;
    int32_t status;
    uint32_t stack_bytes;
} done;

#define frame protocol_last
static const char *trouble; /* why there is no model, or 0 */
static uint32_t loaded;     /* bytes of all inputs that have come */
static uint8_t last_run;    /* sequence of the last run */
#if FIRMWARE_AUDIO && FIRMWARE_ROWS
#define MOST_FRAMES (PROTOCOL_CHUNK / 2 / TABLES_HOP + 1) /* that one payload completes */
static int8_t features[MOST_FRAMES * TABLES_FRAME_STEP];  /* of the last samples that came */
static uint32_t made;                                     /* bytes of these */
#endif

static uint32_t total(const uint32_t *bytes, int count)
{
    uint32_t sum = 0;
    while (count--)
        sum += *bytes++;
    return sum;
}

static uint8_t *part(int output, int index)
{
    return output ? (uint8_t *)(uintptr_t)engine_output(index) : engine_input(index);
}

/* Copies between a buffer and all inputs (or outputs) seen as one row of bytes. */
static void transfer(int output, uint32_t offset, uint8_t *buffer, uint32_t length, int store)
{
    const uint32_t *const bytes = output ? output_bytes : input_bytes;
    for (int i = 0; length > 0; offset -= bytes[i], i++) {
        uint32_t count;
        if (offset >= bytes[i])
            continue;
        count = bytes[i] - offset < length ? bytes[i] - offset : length;
        if (store)
            memcpy(part(output, i) + offset, buffer, count);
        else
            memcpy(buffer, part(output, i) + offset, count);
        buffer += count;
        length -= count;
        offset += count;
    }
}

/* The next bytes of the inputs. */
static void take(uint32_t offset, uint8_t *bytes, uint32_t length)
{
#if FIRMWARE_ROWS
    if (offset == 0) {
        core_paint_stack();
        core_restart_clock();
        engine_begin();
    }
    engine_take(bytes, length);
#else
    transfer(0, offset, bytes, length, 1);
#endif
}

#if FIRMWARE_AUDIO
/* The next samples. With rows, the model computes on each frame as soon as it is made. */
static void hear(const void *samples, uint32_t count)
{
#if FIRMWARE_ROWS
    const char *from = samples;
    made = 0;
    while (count > 0 && loaded < total(input_bytes, INPUTS)) {
        const uint32_t taken = frontend_take(from, count);
        from += 2 * taken;
        count -= taken;
        if (frontend_has_frame()) {
            int8_t *const row = features + made;
            frontend_frame(row);
            take(loaded, (uint8_t *)row, TABLES_FRAME_STEP);
            loaded += TABLES_FRAME_STEP;
            made += TABLES_FRAME_STEP;
        }
    }
    frontend_samples += count; /* what comes after the last frame is not looked at */
#else
    frontend_feed(samples, count, engine_input(0));
    loaded = frontend_full() ? total(input_bytes, INPUTS) : 0;
#endif
    done.frontend_ticks = frontend_ticks;
}
#endif

/* How often a second it looks whether a microphone has put something into the ring. */
#define POLLS (FIRMWARE_LISTENING ? 100 : 1)

static void run(void)
{
    uint64_t start;
#if !FIRMWARE_ROWS
    core_paint_stack();
    core_restart_clock();
#endif
    start = core_ticks();
    done.status = engine_run();
    done.ticks = core_ticks() - start;
#if FIRMWARE_ROWS
    done.ticks += engine_taken();
#endif
    for (int i = 0; i < FIRMWARE_LAYERS; i++)
        engine_marks[i] -= start;
    done.stack_bytes = core_stack_used();
    loaded = 0;
#if FIRMWARE_AUDIO && FIRMWARE_REMEMBERS
    frontend_next(); /* the stream goes on where this input ended */
#endif
}

/* Noise from a generator of 32 bits: needs no flash, and a host can make the same. A float is a byte
 * of it as well, from -4 to 3.97, so that no input is infinite or not a number. */
static void built_in(void)
{
    uint32_t state = 12345;
    done.frontend_ticks = 0;
#if FIRMWARE_AUDIO
#if FIRMWARE_LISTENING
    listening_restart();
#endif
    frontend_restart();
    loaded = 0;
    for (uint32_t at = 0; at < FIRMWARE_AUDIO_SAMPLES; at++) {
        int16_t sample;
        state = state * 1664525u + 1013904223u;
        sample = (int16_t)(state >> 16);
        hear(&sample, 1);
    }
#else
    for (uint32_t i = 0, offset = 0; i < INPUTS; offset += input_bytes[i++])
        for (uint32_t at = 0; at < input_bytes[i];) {
            const uint32_t size = input_floats[i] ? sizeof(float) : 1;
            float number;
            uint8_t bytes[sizeof number];
            state = state * 1664525u + 1013904223u;
            bytes[0] = (uint8_t)(state >> 24);
            number = (float)((int)bytes[0] - 128) / 32;
            if (input_floats[i])
                memcpy(bytes, &number, sizeof number);
            take(offset + at, bytes, size);
            at += size;
        }
#endif
    run();
}

/* Text, into a frame or straight to the port. */

static uint32_t text_length;
static int text_to_port;

static void put(const char *text)
{
    for (; *text; text++)
        if (text_to_port)
            board_put((uint8_t)*text);
        else if (text_length < PROTOCOL_CHUNK)
            frame.payload[text_length++] = (uint8_t)*text;
}

static void put_number(uint64_t value)
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

static void put_line(const char *name, const char *value, uint64_t number)
{
    put(name);
    put(" ");
    if (value)
        put(value);
    else
        put_number(number);
    put(text_to_port ? "\r\n" : "\n");
}

static void describe(void)
{
    put_line("board", BOARD_NAME, 0);
    put_line("runtime", FIRMWARE_RUNTIME, 0);
    put_line("model", FIRMWARE_TITLE, 0);
    put_line("clock", board_clock(), 0);
    put_line("ticks_hz", 0, board_ticks_hz());
    put_line("arena_bytes", 0, trouble ? 0 : engine_arena_used());
    put_line("trouble", trouble ? trouble : "none", 0);
}

static void say_hello(void)
{
    text_length = 0;
    put_line("protocol", 0, PROTOCOL_VERSION);
    put_line("input_bytes", 0, total(input_bytes, INPUTS));
    put_line("output_bytes", 0, total(output_bytes, OUTPUTS));
    put_line("layers", 0, FIRMWARE_LAYERS);
    put_line("samples", 0, FIRMWARE_AUDIO_SAMPLES);
#if FIRMWARE_REMEMBERS
    put_line("remembers", "yes", 0);
#endif
    describe();
}

static void show(void)
{
    text_to_port = 1;
    describe();
    if (!trouble) {
        const int8_t *output;
        built_in();
        put_line("status", 0, (uint64_t)(uint32_t)done.status);
        put_line("ticks", 0, done.ticks);
        put_line("frontend_ticks", 0, done.frontend_ticks);
        put_line("stack_bytes", 0, done.stack_bytes);
        put("output");
        output = engine_output(0);
        for (uint32_t i = 0; i < output_bytes[0] && i < 64; i++) {
            put(output[i] < 0 ? " -" : " ");
            put_number((uint64_t)(output[i] < 0 ? -output[i] : output[i]));
        }
        put("\r\n");
    }
    text_to_port = 0;
}

static void reply(const void *payload, uint32_t length)
{
    protocol_send(frame.kind | PROTOCOL_REPLY, frame.sequence, frame.argument, payload, length);
}

static void refuse(const char *sentence)
{
    protocol_send(PROTOCOL_ERROR, frame.sequence, 0, sentence, (uint32_t)strlen(sentence));
}

static void load(void)
{
    const uint32_t length = frame.length;
    if (frame.argument > loaded && frame.argument != 0) {
        refuse("part of the input is missing");
    } else if (frame.argument > total(input_bytes, INPUTS) ||
               length > total(input_bytes, INPUTS) - frame.argument) {
        refuse("more came than the inputs hold");
    } else {
        if (!FIRMWARE_ROWS || frame.argument == loaded || frame.argument == 0) {
            take(frame.argument, frame.payload, length);
            loaded = frame.argument + length;
        } /* else these rows came before */
        done.frontend_ticks = 0;
        reply(0, 0);
    }
}

static void audio(void)
{
#if FIRMWARE_AUDIO
    if (frame.argument == 0) {
        frontend_restart();
        loaded = 0;
    }
#if FIRMWARE_LISTENING
    listening_steps = 0;
#endif
    if (frame.argument > frontend_samples) {
        refuse("part of the audio is missing");
        return;
    }
    if (frame.argument == frontend_samples) /* not one that came before */
        hear(frame.payload, frame.length / 2);
#if FIRMWARE_ROWS
    reply(features, made); /* they cannot be read later */
#else
    reply(0, 0);
#endif
#else
    refuse("this firmware has no front end for audio");
#endif
}

#if FIRMWARE_REMEMBERS
static void forget(void)
{
    engine_forget();
#if FIRMWARE_AUDIO
    frontend_restart();
#endif
    loaded = 0;
    reply(0, 0);
}
#endif

/* Works off what has been heard, from a host or by a microphone's interrupt, and tells words: a host
 * in frames, people in lines. Words go into the buffer of the frame that came, but not its head. */
static void work(int to_people)
{
#if FIRMWARE_LISTENING
    struct listening_word word;
    int left;
    while ((left = listening_work(&word)) != 0) {
        if (left == 1)
            continue;
        text_to_port = to_people;
        text_length = 0;
        put_line("word", hearing_names[word.label], 0);
        put_line("step", 0, word.step);
        put_line("confidence", 0, word.confidence);
        text_to_port = 0;
        if (!to_people)
            protocol_send(PROTOCOL_WORD, 0, 0, frame.payload, text_length);
    }
#else
    (void)to_people;
#endif
}

static void listen(void)
{
#if FIRMWARE_LISTENING
    struct {
        uint64_t ticks, frontend_ticks;
        uint32_t steps, lost;
        int32_t status;
        uint32_t stack_bytes;
    } heard;
    if (frame.argument == 0) {
        core_paint_stack();
        listening_restart();
    }
    if (frame.argument > frontend_samples) {
        refuse("part of the audio is missing");
        return;
    }
    if (frame.argument == frontend_samples) { /* not one that came before */
        listening_hear(frame.payload, frame.length / 2);
        work(0);
    }
    heard.ticks = listening_ticks;
    heard.frontend_ticks = frontend_ticks;
    heard.steps = listening_steps;
    heard.lost = listening_lost;
    heard.status = listening_status;
    heard.stack_bytes = core_stack_used();
    reply(&heard, sizeof heard);
#else
    refuse("this firmware does not listen to streams");
#endif
}

static void start(void)
{
    if (frame.argument == 1) {
        built_in();
    } else if (loaded == total(input_bytes, INPUTS)) {
        run();
    } else if (frame.sequence != last_run || loaded != 0) {
        refuse("the input has not come, or not all of it");
        return;
    }
    last_run = frame.sequence;
    reply(&done, sizeof done);
}

/* As much of a row of bytes as one frame takes. */
static void read_back(const uint8_t *from, uint32_t size, int output)
{
    const uint32_t left = frame.argument < size ? size - frame.argument : 0;
    const uint32_t length = left < PROTOCOL_CHUNK ? left : PROTOCOL_CHUNK;
    if (from)
        memcpy(frame.payload, from + frame.argument, length);
    else
        transfer(output, frame.argument, frame.payload, length, 0);
    reply(frame.payload, length);
}

static void answer(void)
{
    switch (frame.kind) {
    case PROTOCOL_HELLO:
        say_hello();
        reply(frame.payload, text_length);
        return;
    case PROTOCOL_RESET:
        core_reset();
        return;
    default:
        break;
    }
    if (trouble) {
        refuse(trouble);
        return;
    }
    switch (frame.kind) {
    case PROTOCOL_LOAD:
        load();
        break;
    case PROTOCOL_AUDIO:
        audio();
        break;
    case PROTOCOL_LISTEN:
        listen();
        break;
    case PROTOCOL_RUN:
        start();
        break;
#if FIRMWARE_REMEMBERS
    case PROTOCOL_FORGET:
        forget();
        break;
#endif
    case PROTOCOL_READ_OUTPUT:
        read_back(0, total(output_bytes, OUTPUTS), 1);
        break;
    case PROTOCOL_READ_INPUT:
        if (FIRMWARE_ROWS)
            refuse("rows of the input are not kept");
#if FIRMWARE_LISTENING
        else if (listening_steps > 0) /* of a stream: the input itself is gone after a run */
            read_back((const uint8_t *)listening_features, total(input_bytes, INPUTS), 0);
#endif
        else
            read_back(0, total(input_bytes, INPUTS), 0);
        break;
    case PROTOCOL_READ_LAYERS:
        read_back((const uint8_t *)engine_marks, 8 * FIRMWARE_LAYERS, 0);
        break;
    default:
        refuse("unknown request");
    }
}

int main(void)
{
    int alone = 1, silent = 0, spoken_to = 0;
    trouble = engine_start();
#if FIRMWARE_LISTENING
    listening_restart();
#endif
    for (;;) {
        const int came = protocol_receive(&frame, board_ticks_hz() / POLLS);
        if (came == 1) {
            alone = 0;
            spoken_to = 1;
            answer();
        } else if (came < 0) {
            protocol_send(PROTOCOL_DAMAGED, frame.sequence, 0, 0, 0);
        } else if (alone && ++silent == POLLS) {
            alone = 0;
            show();
        }
        work(!spoken_to);
    }
}
