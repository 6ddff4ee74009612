#pragma once
#include <stdint.h>
#define TFLITE_SCHEMA_VERSION 3
namespace tflite {
struct Model {
  uint32_t version() const { return 3; }
};
inline const Model *GetModel(const void *bytes) { return static_cast<const Model *>(bytes); }
} // namespace tflite
