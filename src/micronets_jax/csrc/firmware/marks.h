/* Included before every source of the model: notes the time after each layer. */
#ifndef MARKS_H
#define MARKS_H
void firmware_mark(int layer);
#define MODEL_HOOK(layer, arena) firmware_mark(layer)
#endif
