// Stands in for the library: copies 96 bytes from input to output, one event for each operator.
#include <string.h>

#include "tensorflow/lite/micro/cortex_m_generic/debug_log_callback.h"
#include "tensorflow/lite/micro/micro_interpreter.h"

static void (*log_callback)(const char *);

extern "C" void RegisterDebugLogCallback(void (*callback)(const char *))
{
  log_callback = callback;
}

#ifdef WITH_MESSAGES
void MicroPrintf(const char *, ...) {}
#endif

namespace tflite {

#ifdef PADDING // bytes that the operator reaches
static const char padding[PADDING + 1] = {1};
static volatile int first = 0;
TFLMRegistration Register_RELU() { return {padding[first]}; }
#else
TFLMRegistration Register_RELU() { return {1}; }
#endif

MicroInterpreter::MicroInterpreter(const Model *, const MicroOpResolver &resolver, uint8_t *arena,
                                   size_t arena_size, MicroResourceVariables *,
                                   MicroProfilerInterface *profiler, bool)
    : resolver_(resolver), arena_(arena), arena_size_(arena_size), profiler_(profiler)
{
}

TfLiteStatus MicroInterpreter::AllocateTensors()
{
  if (arena_size_ < arena_used_bytes()) {
    log_callback("Failed to allocate 192 bytes\nand more");
    log_callback("a second line");
    return kTfLiteError;
  }
  input_.data.data = arena_;
  output_.data.data = arena_ + 96;
  return kTfLiteOk;
}

TfLiteStatus MicroInterpreter::Reset()
{
  return kTfLiteOk;
}

TfLiteStatus MicroInterpreter::Invoke()
{
  for (int i = 0; i < resolver_.count(); i++) {
    const uint32_t event = profiler_->BeginEvent("operator");
    memcpy(output_.data.data, input_.data.data, 96);
    profiler_->EndEvent(event);
  }
  return kTfLiteOk;
}

TfLiteTensor *MicroInterpreter::input(size_t) { return &input_; }
TfLiteTensor *MicroInterpreter::output(size_t) { return &output_; }
size_t MicroInterpreter::arena_used_bytes() const { return 192; }

} // namespace tflite
