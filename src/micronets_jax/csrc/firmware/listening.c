#include "listening.h"

#include "core.h"
#include "engine.h"
#include "frontend.h"
#include "hearing.h"
#include "tables.h"

#include <string.h>

#define BARRIER __asm__ volatile("" ::: "memory")
#define FEATURES (TABLES_FRAMES * TABLES_FRAME_STEP)

static int16_t ring[HEARING_RING];
static volatile uint32_t put, got; /* where the next sample goes, and comes from */
volatile uint32_t listening_lost;

uint32_t listening_steps;
uint64_t listening_ticks;
int32_t listening_status;
int8_t listening_features[FEATURES];
static uint32_t due; /* frames until the next inference */

static uint16_t posteriors[HEARING_WINDOW][HEARING_CLASSES];
static uint32_t sums[HEARING_CLASSES]; /* of these */
static uint32_t oldest, pause;

void listening_restart(void)
{
    frontend_restart();
    put = got = listening_lost = 0;
    listening_steps = 0;
    listening_ticks = 0;
    due = TABLES_FRAMES;
    memset(posteriors, 0, sizeof posteriors);
    memset(sums, 0, sizeof sums);
    oldest = pause = 0;
}

void listening_hear(const void *samples, uint32_t count)
{
    const char *from = samples;
    for (; count--; from += 2) {
        const uint32_t next = put + 1 == HEARING_RING ? 0 : put + 1;
        if (next == got) {
            listening_lost++;
            continue;
        }
        memcpy(ring + put, from, 2);
        BARRIER; /* the sample is there before it is announced */
        put = next;
    }
}

/* Adds the posteriors of these logits to the sums in place of the oldest; 1 if a word is detected. */
static int smooth(const int8_t *logits, struct listening_word *word)
{
    uint16_t *const row = posteriors[oldest];
    uint32_t total = 0, best = 0;
    int most = -128, label = -1;
    oldest = oldest + 1 == HEARING_WINDOW ? 0 : oldest + 1;
    for (int i = 0; i < HEARING_CLASSES; i++)
        most = logits[i] > most ? logits[i] : most;
    for (int i = 0; i < HEARING_CLASSES; i++)
        total += hearing_exponentials[most - logits[i]];
    for (int i = 0; i < HEARING_CLASSES; i++) {
        const uint32_t now = ((uint32_t)hearing_exponentials[most - logits[i]] << 15) / total;
        sums[i] += now - row[i];
        row[i] = (uint16_t)now;
        if (hearing_words[i] && (label < 0 || sums[i] > best)) {
            best = sums[i];
            label = i;
        }
    }
    if (pause > 0) {
        pause--;
        return 0;
    }
    if (best < (uint32_t)HEARING_THRESHOLD * HEARING_WINDOW)
        return 0;
    pause = HEARING_REFRACTORY;
    word->step = listening_steps;
    word->label = (uint32_t)label;
    word->confidence = best / HEARING_WINDOW;
    return 1;
}

static int infer(struct listening_word *word)
{
    uint64_t start;
    int told;
    core_restart_clock();
    start = core_ticks();
    memcpy(engine_input(0), listening_features, FEATURES);
    listening_status = engine_run();
    told = smooth(engine_output(0), word);
    listening_ticks += core_ticks() - start;
    listening_steps++;
    return 1 + told;
}

int listening_work(struct listening_word *word)
{
    while (got != put) {
        const uint32_t filled = put, end = filled > got ? filled : HEARING_RING;
        uint32_t taken;
        BARRIER;
        taken = frontend_take(ring + got, end - got);
        got = got + taken == HEARING_RING ? 0 : got + taken;
        if (!frontend_has_frame())
            continue;
        memmove(listening_features, listening_features + TABLES_FRAME_STEP,
                FEATURES - TABLES_FRAME_STEP);
        frontend_frame(listening_features + FEATURES - TABLES_FRAME_STEP);
        if (--due == 0) {
            due = HEARING_HOP;
            return infer(word);
        }
    }
    return 0;
}
