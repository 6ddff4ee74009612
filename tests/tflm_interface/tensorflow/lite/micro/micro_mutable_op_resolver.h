#pragma once
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
namespace tflite {
struct TFLMRegistration {
  int kind;
};
TFLMRegistration Register_RELU();
TFLMRegistration Register_RELU6();
class MicroOpResolver {
 public:
  virtual ~MicroOpResolver() {}
  virtual int count() const = 0;
};
template <unsigned capacity>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  TfLiteStatus AddRelu() { return Add(Register_RELU()); }
  TfLiteStatus AddRelu6() { return Add(Register_RELU6()); }
  int count() const override { return static_cast<int>(count_); }

 private:
  TfLiteStatus Add(const TFLMRegistration &registration)
  {
    if (count_ == capacity)
      return kTfLiteError;
    registrations_[count_++] = registration;
    return kTfLiteOk;
  }
  TFLMRegistration registrations_[capacity];
  unsigned count_ = 0;
};
} // namespace tflite
