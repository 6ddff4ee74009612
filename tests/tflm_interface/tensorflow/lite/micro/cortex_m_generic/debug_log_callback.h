#pragma once
extern "C" void RegisterDebugLogCallback(void (*callback)(const char *text));
