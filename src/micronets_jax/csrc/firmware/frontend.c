#include "frontend.h"

#include "core.h"
#include "tables.h"

#include <string.h>

#define HALF (TABLES_FFT / 2) /* points of the complex transform that computes the real one */

uint32_t frontend_samples;
uint64_t frontend_ticks;
static uint32_t held_count, frame_count;
static int16_t held[TABLES_FRAME];
static float work[TABLES_FFT]; /* a frame, then its spectrum: re, im, re, im ... */
static float bands[TABLES_MELS];

static float sine(uint32_t k)
{
    return tables_sine[k];
}

static float cosine(uint32_t k)
{
    return tables_sine[k + TABLES_FFT / 4];
}

/* Natural logarithm of a positive, normal number, within 2 units in the last place of 1: with the
 * mantissa m in [sqrt(1/2), sqrt(2)) and s = (m - 1) / (m + 1), ln m = 2 (s + s^3/3 + s^5/5 + ...). */
static float logarithm(float x)
{
    uint32_t bits;
    int32_t exponent;
    float m, s, square;
    memcpy(&bits, &x, 4);
    exponent = (int32_t)((bits - 0x3F3504F3u) & 0xFF800000u) / (1 << 23);
    bits -= (uint32_t)exponent << 23;
    memcpy(&m, &bits, 4);
    s = (m - 1.0f) / (m + 1.0f);
    square = s * s;
    s *= 2.0f + square * (0.66666667f + square * (0.4f + square * (0.28571429f + square * 0.22222222f)));
    return s + (float)exponent * 0.69314718f;
}

static float square_root(float x)
{
#if defined(__ARM_FP)
    float y;
    __asm__("vsqrt.f32 %0, %1" : "=t"(y) : "t"(x));
    return y;
#else
    float y = x > 1.0f ? x : 1.0f;
    for (int i = 0; i < 60; i++)
        y = 0.5f * (y + x / y);
    return y;
#endif
}

static void reverse_bits(void)
{
    for (uint32_t i = 0, j = 0; i < HALF; i++) {
        uint32_t bit = HALF / 2;
        if (i < j) {
            const float re = work[2 * i], im = work[2 * i + 1];
            work[2 * i] = work[2 * j];
            work[2 * i + 1] = work[2 * j + 1];
            work[2 * j] = re;
            work[2 * j + 1] = im;
        }
        for (; bit && (j & bit); bit /= 2)
            j ^= bit;
        j |= bit;
    }
}

/* The discrete Fourier transform of HALF complex numbers, in place. */
static void transform(void)
{
    reverse_bits();
    for (float *x = work; x < work + TABLES_FFT; x += 8) { /* two stages without multiplication */
        const float ar = x[0] + x[2], ai = x[1] + x[3], br = x[0] - x[2], bi = x[1] - x[3];
        const float cr = x[4] + x[6], ci = x[5] + x[7], dr = x[4] - x[6], di = x[5] - x[7];
        x[0] = ar + cr;
        x[1] = ai + ci;
        x[4] = ar - cr;
        x[5] = ai - ci;
        x[2] = br + di;
        x[3] = bi - dr;
        x[6] = br - di;
        x[7] = bi + dr;
    }
    for (uint32_t size = 4; size < HALF; size *= 2) {
        const uint32_t step = HALF / size; /* of the angle, in parts of a turn of TABLES_FFT */
        for (uint32_t k = 0; k < size; k++) {
            const float re = cosine(k * step), im = sine(k * step);
            float *a = work + 2 * k;
            for (; a < work + TABLES_FFT; a += 4 * size) {
                float *const b = a + 2 * size;
                const float br = b[0] * re + b[1] * im, bi = b[1] * re - b[0] * im;
                b[0] = a[0] - br;
                b[1] = a[1] - bi;
                a[0] += br;
                a[1] += bi;
            }
        }
    }
}

/* Magnitude or power of bin k of the real transform, 0 <= k <= HALF. */
static float bin(uint32_t k)
{
    const uint32_t i = k % HALF, j = (HALF - k) % HALF;
    const float er = 0.5f * (work[2 * i] + work[2 * j]);
    const float ei = 0.5f * (work[2 * i + 1] - work[2 * j + 1]);
    const float or_ = 0.5f * (work[2 * i + 1] + work[2 * j + 1]);
    const float oi = 0.5f * (work[2 * j] - work[2 * i]);
    const float c = cosine(k), s = sine(k);
    const float re = er + or_ * c + oi * s, im = ei + oi * c - or_ * s;
    const float power = re * re + im * im;
    return TABLES_POWER ? power : square_root(power);
}

static void mel(void)
{
    const float *weight = tables_weights;
    for (int m = 0; m < TABLES_MELS; m++)
        bands[m] = 0.0f;
    for (uint32_t k = 0; k < TABLES_BINS; k++) { /* a bin lies in two triangles, or in one */
        const float value = bin(TABLES_FIRST_BIN + k);
        const int first = tables_first[k];
        bands[first] += value * *weight++;
        if (first + 1 < TABLES_MELS)
            bands[first + 1] += value * *weight;
        weight++;
    }
    for (int m = 0; m < TABLES_MELS; m++)
        bands[m] = TABLES_LOG_SCALE * logarithm(bands[m] > TABLES_FLOOR ? bands[m] : TABLES_FLOOR) +
                   TABLES_OFFSET;
}

static int8_t quantize(float x)
{
    const float level = x * TABLES_LEVELS + (0.5f + (float)TABLES_ZERO_POINT);
    int32_t whole;
    if (level >= 127.0f)
        return 127;
    if (level < -128.0f)
        return -128;
    whole = (int32_t)level;
    return (int8_t)(whole - ((float)whole > level));
}

void frontend_frame(int8_t *row)
{
    uint64_t start;
    core_restart_clock();
    start = core_ticks();
    for (uint32_t i = 0; i < TABLES_FRAME; i++) {
        const uint32_t mirrored = i <= TABLES_FRAME / 2 ? i : TABLES_FRAME - i;
        work[i] = (float)held[i] * tables_window[mirrored];
    }
    for (uint32_t i = TABLES_FRAME; i < TABLES_FFT; i++)
        work[i] = 0.0f;
    transform();
    mel();
    if (row) {
#if TABLES_COEFFICIENTS
        const float *factor = tables_dct;
        for (int k = 0; k < TABLES_COEFFICIENTS; k++) {
            float sum = 0.0f;
            for (int m = 0; m < TABLES_MELS; m++)
                sum += bands[m] * *factor++;
            row[k * TABLES_BAND_STEP] = quantize(sum);
        }
#else
        for (int m = 0; m < TABLES_MELS; m += TABLES_THINNING)
            row[m / TABLES_THINNING * TABLES_BAND_STEP] = quantize(bands[m]);
#endif
    }
    held_count = TABLES_FRAME > TABLES_HOP ? TABLES_FRAME - TABLES_HOP : 0;
    memmove(held, held + TABLES_HOP, 2 * held_count);
    frontend_ticks += core_ticks() - start;
}

void frontend_restart(void)
{
    held_count = frame_count = 0;
    frontend_samples = 0;
    frontend_ticks = 0;
}

void frontend_next(void)
{
    frame_count = 0;
    frontend_ticks = 0;
}

int frontend_full(void)
{
    return frame_count >= TABLES_FRAMES;
}

uint32_t frontend_take(const void *samples, uint32_t count)
{
    const uint32_t room = TABLES_FRAME - held_count, taken = count < room ? count : room;
    memcpy(held + held_count, samples, 2 * taken);
    held_count += taken;
    frontend_samples += taken;
    return taken;
}

int frontend_has_frame(void)
{
    return held_count == TABLES_FRAME;
}

void frontend_feed(const void *samples, uint32_t count, int8_t *features)
{
    const char *from = samples;
    while (count > 0 && frame_count < TABLES_FRAMES) {
        const uint32_t taken = frontend_take(from, count);
        from += 2 * taken;
        count -= taken;
        if (frontend_has_frame()) {
            int8_t *const row = features + frame_count / TABLES_THINNING * TABLES_FRAME_STEP;
            frontend_frame(frame_count % TABLES_THINNING == 0 ? row : 0);
            frame_count++;
        }
    }
    frontend_samples += count; /* what comes after the last frame is not looked at */
}
