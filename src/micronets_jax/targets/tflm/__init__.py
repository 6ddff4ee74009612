"""TensorFlow Lite Micro (TFLM) with CMSIS-NN's kernels, as a runtime."""
