// The engine of a model in TensorFlow Lite Micro's interpreter.
#include <new>

#include <stdint.h>
#include <string.h>

#include "tensorflow/lite/micro/cortex_m_generic/debug_log_callback.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/micro_profiler_interface.h"
#include "tensorflow/lite/schema/schema_generated.h"

#include "config.h"
#include "engine.h"
#include "operators.h"

extern "C" uint64_t core_ticks(void);
extern const uint8_t model_data[];

uint64_t engine_marks[FIRMWARE_LAYERS];

namespace {

// Notes the time after every operator.
class Marks : public tflite::MicroProfilerInterface {
 public:
  uint32_t BeginEvent(const char *) override { return 0; }
  void EndEvent(uint32_t) override {
    if (layer_ < FIRMWARE_LAYERS)
      engine_marks[layer_++] = core_ticks();
  }
  void Restart() { layer_ = 0; }

 private:
  int layer_ = 0;
};

alignas(16) uint8_t arena[FIRMWARE_ARENA_BYTES];
alignas(Marks) uint8_t marks_place[sizeof(Marks)];
using Resolver = tflite::MicroMutableOpResolver<FIRMWARE_OPERATORS>;
alignas(Resolver) uint8_t resolver_place[sizeof(Resolver)];
alignas(tflite::MicroInterpreter) uint8_t interpreter_place[sizeof(tflite::MicroInterpreter)];

Marks *marks;
tflite::MicroInterpreter *interpreter;
char message[120]; // the first thing that the library complains of

void Remember(const char *text)
{
  if (message[0] == 0)
    for (unsigned i = 0; i + 1 < sizeof message && text[i] && text[i] != '\n'; i++)
      message[i] = text[i];
}

} // namespace

extern "C" const char *engine_start(void)
{
  RegisterDebugLogCallback(Remember);
  const tflite::Model *model = tflite::GetModel(model_data);
  if (model->version() != TFLITE_SCHEMA_VERSION)
    return "the library reads another version of TensorFlow Lite's files";
  marks = new (marks_place) Marks;
  Resolver *resolver = new (resolver_place) Resolver;
  RegisterOperators(*resolver);
  interpreter = new (interpreter_place)
      tflite::MicroInterpreter(model, *resolver, arena, sizeof arena, nullptr, marks);
  if (interpreter->AllocateTensors() != kTfLiteOk)
    return message[0] ? message : "the arena is too small";
  return 0;
}

extern "C" void *engine_input(int index)
{
  return interpreter->input(index)->data.data;
}

extern "C" const void *engine_output(int index)
{
  return interpreter->output(index)->data.data;
}

extern "C" int engine_run(void)
{
  marks->Restart();
  return interpreter->Invoke() == kTfLiteOk ? 0 : 1;
}

#if FIRMWARE_REMEMBERS
extern "C" void engine_forget(void)
{
  interpreter->Reset();
}
#endif

extern "C" uint32_t engine_arena_used(void)
{
  return interpreter->arena_used_bytes();
}

// Nothing is ever allocated or deleted; the library's destructors mention it.
void operator delete(void *) noexcept {}
void operator delete(void *, size_t) noexcept {}
