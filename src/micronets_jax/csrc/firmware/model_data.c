/* The model as a file, in flash. */
__asm__(".section .rodata.model_data,\"a\"\n"
        ".balign 16\n"
        ".global model_data\n"
        "model_data:\n"
        ".incbin \"model.tflite\"\n"
        ".balign 16\n"
        ".previous\n");
