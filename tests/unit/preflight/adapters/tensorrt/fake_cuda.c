/* The part of libcuda that preflight calls, over the host's own memory, with its limits and failures set from outside. */
#include <stdlib.h>
#include <string.h>

int fake_init = 0, fake_devices = 1, fake_major = 8, fake_minor = 7;
int fake_contexts = 0, fake_streams = 0, fake_buffers = 0, fake_synchronize = 0, fake_stream_create = 0;
size_t fake_free = 1 << 20;

static __thread void *current = 0;
static int context, stream;

int cuInit(unsigned flags) { return flags ? 1 : fake_init; }
int cuGetErrorString(int code, const char **text) {
    *text = code == 2 ? "out of memory" : code == 100 ? "no CUDA-capable device is detected" : "an illegal memory access";
    return 0;
}
int cuDeviceGetCount(int *count) { *count = fake_devices; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Orin (nvgpu)", length); return device; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? fake_major : attribute == 76 ? fake_minor : -1;
    return device;
}
int cuDevicePrimaryCtxRetain(void **out, int device) { fake_contexts++; *out = &context; return device; }
int cuDevicePrimaryCtxRelease_v2(int device) { fake_contexts--; return device; }
int cuCtxSetCurrent(void *value) { current = value; return value == &context ? 0 : 201; }
int cuStreamCreate(void **out, unsigned flags) {
    if (fake_stream_create) return fake_stream_create;
    fake_streams++;
    *out = &stream;
    return flags == 1 ? 0 : 1;
}
int cuStreamSynchronize(void *which) { return which == &stream ? fake_synchronize : 400; }
int cuStreamDestroy_v2(void *which) { fake_streams--; return which == &stream ? 0 : 400; }

/* Each block carries its size in the 256 bytes before it, so that a copy past its end is seen. */
int cuMemAlloc_v2(unsigned long long *out, size_t size) {
    if (current != &context) return 201;
    if (!size) return 1;
    if (size > fake_free) return 2;
    char *block = aligned_alloc(256, (256 + size + 255) / 256 * 256);
    memcpy(block, &size, sizeof size);
    fake_free -= size;
    fake_buffers++;
    *out = (unsigned long long)(block + 256);
    return 0;
}
static size_t size_of(unsigned long long address) {
    size_t size;
    memcpy(&size, (char *)address - 256, sizeof size);
    return size;
}
int cuMemFree_v2(unsigned long long address) {
    fake_free += size_of(address);
    fake_buffers--;
    free((char *)address - 256);
    return 0;
}
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t size, void *which) {
    if (size > size_of(to) || which != &stream) return 1;
    memcpy((void *)to, from, size);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t size, void *which) {
    if (size > size_of(from) || which != &stream) return 1;
    memcpy(to, (void *)from, size);
    return 0;
}
