// A stand-in for libcuda.so: the calls of the driver API that the crate makes, over the emulator. Device memory is host
// memory, streams run at once and in order, a launch runs the emulated kernel of that name if the loaded PTX has it.
//
// `emulator_set` makes it a driver of the past, a small GPU, or none; settings are those of the calling thread.
#include "activation.cuh"
#include "attention.cuh"

#define KERNEL_FILE(name) namespace name##_kernels
KERNEL_FILE(activation) {
#include "activation.cu"
}
KERNEL_FILE(attention) {
#include "attention.cu"
}
KERNEL_FILE(attention_backward) {
#include "attention_backward.cu"
}
KERNEL_FILE(layer_norm) {
#include "layer_norm.cu"
}
KERNEL_FILE(logits) {
#include "logits.cu"
}
KERNEL_FILE(matmul) {
#include "matmul.cu"
}
KERNEL_FILE(rotary) {
#include "rotary.cu"
}
KERNEL_FILE(rotation) {
#include "rotation.cu"
}
KERNEL_FILE(rows) {
#include "rows.cu"
}

#include <map>
#include <mutex>
#include <set>
#include <string>

namespace {

typedef void* Handle;
typedef unsigned long long Address;

/// Results as cuda.h numbers them.
enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_PTX = 218,
    UNSUPPORTED_PTX_VERSION = 222,
    NOT_FOUND = 500,
    LAUNCH_OUT_OF_RESOURCES = 701,
};

/// What `emulator_set` changes.
enum Setting { ORDER = 0, SEED = 1, DEVICES = 2, CAPABILITY = 3, MEMORY = 4, REFUSE_PTX = 5, FAIL_LAUNCH = 6, COUNT };

thread_local long values[COUNT] = {0, 1, 1, 80, 1l << 33, 0, 0};

constexpr int SHARED_LIMIT = 166912;
constexpr int SHARED_DEFAULT = 48 << 10;

struct Kernel {
    const char* name;
    void (*run)(dim3, dim3, size_t, void**);
    int shared_limit = SHARED_DEFAULT;
};

#define KERNEL(file, name)                                                                          \
    {                                                                                               \
        #name, {                                                                                    \
            #name, [](dim3 grid, dim3 size, size_t shared, void** parameters) {                            \
                ::emulator::launch_with(file##_kernels::name, grid, size, shared, parameters);      \
            }                                                                                       \
        }                                                                                           \
    }

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all = {
        KERNEL(activation, activate_values),
        KERNEL(activation, activate_backward),
        KERNEL(activation, gate_values),
        KERNEL(activation, gate_backward),
        KERNEL(attention, attention_64),
        KERNEL(attention, attention_128),
        KERNEL(attention, attention_tf32_64),
        KERNEL(attention, attention_tf32_128),
        KERNEL(attention_backward, attention_backward_queries_64),
        KERNEL(attention_backward, attention_backward_queries_128),
        KERNEL(attention_backward, attention_backward_queries_tf32_64),
        KERNEL(attention_backward, attention_backward_queries_tf32_128),
        KERNEL(attention_backward, attention_backward_keys_64),
        KERNEL(attention_backward, attention_backward_keys_128),
        KERNEL(attention_backward, attention_backward_keys_tf32_64),
        KERNEL(attention_backward, attention_backward_keys_tf32_128),
        KERNEL(attention, attention_pattern),
        KERNEL(attention, apply_pattern),
        KERNEL(layer_norm, layer_norm),
        KERNEL(layer_norm, gain_and_bias),
        KERNEL(layer_norm, layer_norm_backward),
        KERNEL(logits, answer_logits),
        KERNEL(logits, answer_logits_backward),
        KERNEL(logits, log_sum_exp),
        KERNEL(matmul, matmul_f32),
        KERNEL(matmul, matmul_f32_large),
        KERNEL(matmul, matmul_f32_backward),
        KERNEL(matmul, matmul_f32_backward_large),
        KERNEL(matmul, matmul_tf32),
        KERNEL(matmul, matmul_tf32_large),
        KERNEL(matmul, matmul_tf32_backward),
        KERNEL(matmul, matmul_tf32_backward_large),
        KERNEL(matmul, matmul_bf16),
        KERNEL(matmul, matmul_bf16_large),
        KERNEL(matmul, matmul_bf16_backward),
        KERNEL(matmul, matmul_bf16_backward_large),
        KERNEL(matmul, matmul_f16),
        KERNEL(matmul, matmul_f16_large),
        KERNEL(matmul, matmul_f16_backward),
        KERNEL(matmul, matmul_f16_backward_large),
        KERNEL(rotary, rotary),
        KERNEL(rotation, skew_tiles),
        KERNEL(rotation, skew_sum),
        KERNEL(rotation, unit_rows),
        KERNEL(rotation, chebyshev_sum),
        KERNEL(rotation, scale_adjoints),
        KERNEL(rotation, lanczos_step),
        KERNEL(rotation, low_rank_squares),
        KERNEL(rotation, low_rank_adam),
        KERNEL(rows, add_values),
        KERNEL(rows, gather_rows),
        KERNEL(rows, scatter_add_rows),
        KERNEL(rows, copy_spans),
        KERNEL(rows, patch_replace),
        KERNEL(rows, patch_add),
        KERNEL(rows, patch_swap),
        KERNEL(rows, patch_swap_products),
        KERNEL(rows, patch_swap_backward),
    };
    return all;
}

std::mutex lock;
std::map<Address, size_t> allocations;
thread_local long allocated_ever = 0;
thread_local long in_use = 0;
thread_local Handle current_context = nullptr;

/// Bytes behind every allocation that no kernel may write; AddressSanitizer has red zones of its own there.
#if defined(EMULATOR_ASAN)
constexpr size_t GUARD = 0;
#else
constexpr size_t GUARD = 1024;
#endif

void fill(Address start, size_t bytes) {
    uint32_t* words = reinterpret_cast<uint32_t*>(start);
    for (size_t i = 0; i < bytes / 4; i++) words[i] = emulator::NEVER_WRITTEN;
}

/// Did a kernel write behind one of the arrays?
void check_guards(const char* kernel) {
    emulator::Hidden hidden;
    std::lock_guard<std::mutex> guard(lock);
    for (auto [start, bytes] : allocations) {
        const uint32_t* words = reinterpret_cast<const uint32_t*>(start + bytes);
        for (size_t i = 0; i < GUARD / 4; i++) {
            if (words[i] == emulator::NEVER_WRITTEN) continue;
            fprintf(stderr, "emulator: around the launch of %s, a kernel wrote %zu bytes behind an array\n", kernel, 4 * i);
            abort();
        }
    }
}

bool inside_an_allocation(Address start, size_t bytes) {
    std::lock_guard<std::mutex> guard(lock);
    auto next = allocations.upper_bound(start);
    if (next == allocations.begin()) return false;
    --next;
    return start + bytes <= next->first + next->second;
}

}  // namespace

extern "C" {

void emulator_set(int setting, long value) {
    values[setting] = value;
    emulator::settings().order = int(values[ORDER]);
    emulator::settings().seed = uint32_t(values[SEED]);
}

/// Allocations of this thread so far: a repeated batch must make none.
long emulator_allocations() { return allocated_ever; }

int cuInit(unsigned) { return values[DEVICES] ? SUCCESS : NO_DEVICE; }
int cuDriverGetVersion(int* version) {
    *version = 12020;
    return SUCCESS;
}
int cuDeviceGetCount(int* count) {
    *count = int(values[DEVICES]);
    return SUCCESS;
}
int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return ordinal < values[DEVICES] ? SUCCESS : INVALID_DEVICE;
}
int cuDeviceGetName(char* name, int length, int) {
    snprintf(name, length, "emulator");
    return SUCCESS;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 16: *value = 4; break;                                // multiprocessors
        case 75: *value = int(values[CAPABILITY] / 10); break;     // compute capability, major
        case 76: *value = int(values[CAPABILITY] % 10); break;     // and minor
        case 97: *value = SHARED_LIMIT; break;                     // shared memory a block can ask for
        default: *value = 0;
    }
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(Handle* context, int) {
    *context = reinterpret_cast<Handle>(1);
    return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(Handle context) {
    current_context = context;
    return SUCCESS;
}
int cuCtxGetCurrent(Handle* context) {
    *context = current_context;
    return SUCCESS;
}
int cuCtxSynchronize() { return SUCCESS; }
int cuGetErrorName(int result, const char** name) {
    *name = result == LAUNCH_OUT_OF_RESOURCES ? "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES" : "CUDA_ERROR_OF_THE_EMULATOR";
    return SUCCESS;
}
int cuGetErrorString(int, const char** text) {
    *text = "an error of the emulated driver";
    return SUCCESS;
}
int cuStreamCreate(Handle* stream, unsigned) {
    *stream = malloc(1);
    return SUCCESS;
}
int cuStreamDestroy_v2(Handle stream) {
    free(stream);
    return SUCCESS;
}
int cuStreamSynchronize(Handle) { return SUCCESS; }
int cuStreamWaitEvent(Handle, Handle, unsigned) { return SUCCESS; }
int cuEventCreate(Handle* event, unsigned) {
    *event = malloc(1);
    return SUCCESS;
}
int cuEventDestroy_v2(Handle event) {
    free(event);
    return SUCCESS;
}
int cuEventRecord(Handle, Handle) { return SUCCESS; }

int cuMemAlloc_v2(Address* address, size_t bytes) {
    if (in_use + long(bytes) > values[MEMORY]) return OUT_OF_MEMORY;
    // Exactly what was asked for, and a guard; NaN until written.
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes + GUARD) != 0) return OUT_OF_MEMORY;
    fill(reinterpret_cast<Address>(memory), bytes + GUARD);
    *address = reinterpret_cast<Address>(memory);
    std::lock_guard<std::mutex> guard(lock);
    allocations[*address] = bytes;
    allocated_ever++;
    in_use += long(bytes);
    return SUCCESS;
}
int cuMemFree_v2(Address address) {
    std::lock_guard<std::mutex> guard(lock);
    auto found = allocations.find(address);
    if (found == allocations.end()) return INVALID_VALUE;
    in_use -= long(found->second);
    allocations.erase(found);
    free(reinterpret_cast<void*>(address));
    return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Handle) {
    if (!inside_an_allocation(to, bytes)) return INVALID_VALUE;
    memcpy(reinterpret_cast<void*>(to), from, bytes);
    return SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Handle) {
    if (!inside_an_allocation(from, bytes)) return INVALID_VALUE;
    memcpy(to, reinterpret_cast<void*>(from), bytes);
    return SUCCESS;
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Handle) {
    if (!inside_an_allocation(from, bytes) || !inside_an_allocation(to, bytes)) return INVALID_VALUE;
    memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
    return SUCCESS;
}
int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, Handle) {
    if (!inside_an_allocation(to, bytes)) return INVALID_VALUE;
    memset(reinterpret_cast<void*>(to), value, bytes);
    return SUCCESS;
}

/// A module is the set of the entry points that its PTX names.
int cuModuleLoadData(Handle* module, const void* image) {
    if (values[REFUSE_PTX]) return UNSUPPORTED_PTX_VERSION;
    std::string text(static_cast<const char*>(image));
    auto* names = new std::set<std::string>;
    const std::string word = ".entry ";
    for (size_t at = 0; (at = text.find(word, at)) != text.npos;) {
        at += word.size();
        names->insert(text.substr(at, text.find_first_of("( \n", at) - at));
    }
    *module = names;
    return names->empty() ? INVALID_PTX : SUCCESS;
}
int cuModuleUnload(Handle module) {
    delete static_cast<std::set<std::string>*>(module);
    return SUCCESS;
}
int cuModuleGetFunction(Handle* function, Handle module, const char* name) {
    auto found = kernels().find(name);
    if (found == kernels().end() || !static_cast<std::set<std::string>*>(module)->count(name)) return NOT_FOUND;
    *function = &found->second;
    return SUCCESS;
}
int cuFuncSetAttribute(Handle function, int attribute, int value) {
    constexpr int MAX_DYNAMIC_SHARED = 8;
    if (attribute != MAX_DYNAMIC_SHARED) return SUCCESS;
    if (value > SHARED_LIMIT) return INVALID_VALUE;
    std::lock_guard<std::mutex> guard(lock);
    static_cast<Kernel*>(function)->shared_limit = value;
    return SUCCESS;
}
int cuFuncGetAttribute(int* value, int attribute, Handle) {
    constexpr int MAX_THREADS = 0;
    *value = attribute == MAX_THREADS ? 1024 : 0;
    return SUCCESS;
}
int cuLaunchKernel(Handle function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x, unsigned y, unsigned z,
                   unsigned shared, Handle, void** parameters, void**) {
    Kernel& kernel = *static_cast<Kernel*>(function);
    constexpr unsigned GRID_LIMIT = 65535, BLOCK_LIMIT = 1024;
    if (values[FAIL_LAUNCH]) return LAUNCH_OUT_OF_RESOURCES;
    if (!grid_x || !grid_y || !grid_z || !x || !y || !z) return INVALID_VALUE;
    if (grid_y > GRID_LIMIT || grid_z > GRID_LIMIT || x * y * z > BLOCK_LIMIT) return INVALID_VALUE;
    if (int(shared) > kernel.shared_limit) return INVALID_VALUE;
    kernel.run({grid_x, grid_y, grid_z}, {x, y, z}, shared, parameters);
    check_guards(kernel.name);
    return SUCCESS;
}
}
