#pragma once
#include <stddef.h>
#include <stdint.h>

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/micro_profiler_interface.h"
#include "tensorflow/lite/schema/schema_generated.h"
struct TfLiteTensor {
  union {
    void *data;
    int8_t *int8;
  } data;
};
namespace tflite {
class MicroResourceVariables;
class MicroInterpreter {
 public:
  MicroInterpreter(const Model *model, const MicroOpResolver &resolver, uint8_t *arena,
                   size_t arena_size, MicroResourceVariables *variables = nullptr,
                   MicroProfilerInterface *profiler = nullptr, bool preserve = false);
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteStatus Reset();
  TfLiteTensor *input(size_t index);
  TfLiteTensor *output(size_t index);
  size_t arena_used_bytes() const;

 private:
  const MicroOpResolver &resolver_;
  uint8_t *arena_;
  size_t arena_size_;
  MicroProfilerInterface *profiler_;
  TfLiteTensor input_, output_;
};
} // namespace tflite
