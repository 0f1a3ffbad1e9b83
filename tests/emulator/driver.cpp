// A stand-in for libcuda.so: the calls of the driver API that the crate makes, over the emulator. Device memory is host
// memory, streams run at once and in order, a launch runs the emulated kernel of that name if the loaded PTX has it. A
// stream under capture runs nothing: its calls become the nodes of a graph, which runs them when it is launched.
//
// With `INTERPRET` set, modules are read and launches run by the PTX interpreter of tests/ptx, which the test program
// hands over (`emulator_interpreter`): then it is the loaded text that runs, and not the kernels' sources.
//
// `emulator_set` makes it a driver of the past, a small GPU, several, or none. Settings and counters are those of the
// calling thread; a thread starts with the settings in the environment (`EMULATOR_DEVICES`, ...), for whole programs.
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

#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

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
    INVALID_CONTEXT = 201,
    INVALID_PTX = 218,
    UNSUPPORTED_PTX_VERSION = 222,
    NOT_FOUND = 500,
    LAUNCH_OUT_OF_RESOURCES = 701,
    LAUNCH_FAILED = 719,
    STREAM_CAPTURE_UNSUPPORTED = 900,
    STREAM_CAPTURE_ISOLATION = 905,
};

/// What `emulator_set` changes.
enum Setting {
    ORDER,
    SEED,
    DEVICES,
    CAPABILITY,
    MEMORY,         // bytes of every GPU
    REFUSE_PTX,     // 1: all PTX is too new
    FAIL_LAUNCH,    // 1: every launch fails
    VERSION,        // newest CUDA the driver knows
    LAUNCHES_LEFT,  // launches of this thread until the last GPU stops working; negative: it never does
    INTERPRET,      // 1: modules loaded from now on run as PTX
    SUMS,           // of a tensor core: 0 to nearest, 1 as an H100
    FUSED,          // 1: PTX's fma is rounded once, 0: twice, as the sources compiled here
    KEEPS_FREED,    // 1: freed memory stays the pool's until it is trimmed, as where another library wants it so
    LATE,           // 1: that a GPU has stopped working shows when it is waited for, and from then on
    SETTINGS
};

/// What is counted.
enum Counter { ALLOCATIONS, LAUNCHES, GRAPH_LAUNCHES, SYNCHRONISATIONS, PAGEABLE_COPIES, BYTES_IN_USE, COUNTERS };

struct Settings {
    long all[SETTINGS] = {0, 1, 1, 80, 1l << 33, 0, 0, 12020, -1, 0, 1, 1, 0, 0};

    Settings() {
        const std::pair<const char*, int> names[] = {
            {"EMULATOR_DEVICES", DEVICES},       {"EMULATOR_CAPABILITY", CAPABILITY},
            {"EMULATOR_MEMORY", MEMORY},         {"EMULATOR_REFUSE_PTX", REFUSE_PTX},
            {"EMULATOR_DRIVER", VERSION},        {"EMULATOR_LAUNCHES_LEFT", LAUNCHES_LEFT},
            {"EMULATOR_SUMS", SUMS},
        };
        for (auto [name, setting] : names) {
            if (const char* text = getenv(name)) all[setting] = atol(text);
        }
    }

    long& operator[](int setting) { return all[setting]; }
};

thread_local Settings values;
thread_local long counters[COUNTERS];

/// An array's first address and its bytes.
struct Region {
    Address start;
    uint64_t bytes;
};

/// As tests/ptx/src/driver.rs declares it.
struct Request {
    unsigned grid[3], block[3];
    size_t dynamic_shared;
    const char* parameters;
    size_t parameter_bytes;
    const Region* regions;
    size_t n_regions;
    int order;
    unsigned seed;
    int sums;
    bool fused;
};

/// The functions of the PTX interpreter, as tests/ptx/src/driver.rs describes them.
struct Interpreter {
    const void* (*load)(const char* text);
    const void* (*entry)(const void* module, const char* name);
    bool (*parameter)(const void* kernel, size_t number, size_t (*offset_and_bytes)[2]);
    size_t (*shared_bytes)(const void* kernel);
    bool (*launch)(const void* kernel, const Request* request);
};
const Interpreter* interpreter = nullptr;

constexpr int SHARED_LIMIT = 166912;
constexpr int SHARED_DEFAULT = 48 << 10;

struct Kernel {
    const char* name;
    void (*run)(dim3, dim3, size_t, void**);
    /// Bytes of every parameter.
    std::vector<size_t> parameters;
};

template <class... Parameters>
std::vector<size_t> parameter_sizes(void (*)(Parameters...)) {
    return {sizeof(Parameters)...};
}

#define KERNEL(file, name)                                                                          \
    {                                                                                               \
        #name, {                                                                                    \
            #name,                                                                                  \
                [](dim3 grid, dim3 size, size_t shared, void** parameters) {                        \
                    ::emulator::launch_with(file##_kernels::name, grid, size, shared, parameters);  \
                },                                                                                  \
                parameter_sizes(file##_kernels::name)                                               \
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
        KERNEL(matmul, pack_f32),
        KERNEL(matmul, pack_tf32),
        KERNEL(matmul, pack_bf16),
        KERNEL(matmul, pack_f16),
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

/// A GPU's context; handles are pointers into this list.
struct Context {
    int device;
};
constexpr int MOST_DEVICES = 8;
Context contexts[MOST_DEVICES] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};

/// A kernel of a loaded module.
struct Function {
    const Kernel* kernel;
    /// The interpreter's, or null.
    const void* ptx;
    int device;
    int shared_limit = SHARED_DEFAULT;
};

/// The entry points that a PTX names, and those that were asked for.
struct Module {
    int device;
    /// The interpreter's, or null.
    const void* ptx;
    std::set<std::string> names;
    std::map<std::string, Function> functions;
};

typedef std::vector<std::function<int()>> Graph;

struct Stream {
    /// Where calls go instead of being done.
    Graph* capturing = nullptr;
};

/// What is being captured on a stream; the default stream, null, is never captured.
const Graph* capture_of(Handle stream) { return stream ? static_cast<Stream*>(stream)->capturing : nullptr; }

struct Event {
    /// Within which it was recorded.
    const Graph* capture = nullptr;
};

struct Allocation {
    size_t bytes;
    int device;
};

std::mutex lock;
std::map<Address, Allocation> allocations;
std::map<Address, size_t> pinned;
thread_local long in_use[MOST_DEVICES];

/// Memory that was freed in stream order: it counts as in use until the stream has been waited for, and serves arrays of the
/// same size until then; behind that it is the pool's, which gives it back at once unless it is to keep it.
struct Freed {
    Address address;
    size_t bytes;
    int device;
    bool waited_for;
};
thread_local std::vector<Freed> freed;
/// Calls that may be under way on the thread's streams.
thread_local bool under_way = false;
thread_local Context* current_context = nullptr;
thread_local int capturing_streams = 0;

int current_device() { return current_context ? current_context->device : -1; }

/// Has the calling thread's GPU stopped working? Then nothing works on it any more.
bool stopped() { return values[LAUNCHES_LEFT] == 0 && current_device() == values[DEVICES] - 1; }

/// Has the thread been told so?
thread_local bool told = false;

/// Does a call say so? Those that only ask for something may not know it yet.
bool lost() { return stopped() && (told || !values[LATE]); }

/// A call that waits for the GPU knows.
bool lost_by_now() { return told = stopped(); }

/// Does it now, or when the graph that is being captured is launched.
int submit(Handle stream, std::function<int()> call) {
    if (lost()) return LAUNCH_FAILED;
    auto* to = static_cast<Stream*>(stream);
    if (!to->capturing) {
        under_way = true;
        return stopped() ? SUCCESS : call();
    }
    to->capturing->push_back(std::move(call));
    return SUCCESS;
}

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
    for (auto [start, allocation] : allocations) {
        const uint32_t* words = reinterpret_cast<const uint32_t*>(start + allocation.bytes);
        for (size_t i = 0; i < GUARD / 4; i++) {
            if (words[i] == emulator::NEVER_WRITTEN) continue;
            fprintf(stderr, "emulator: around the launch of %s, a kernel wrote %zu bytes behind an array\n", kernel, 4 * i);
            abort();
        }
    }
}

/// Is this memory of the calling thread's GPU?
bool inside_an_allocation(Address start, size_t bytes) {
    std::lock_guard<std::mutex> guard(lock);
    auto next = allocations.upper_bound(start);
    if (next == allocations.begin()) return false;
    --next;
    return start + bytes <= next->first + next->second.bytes && next->second.device == current_device();
}

bool is_pinned(const void* start, size_t bytes) {
    std::lock_guard<std::mutex> guard(lock);
    auto next = pinned.upper_bound(reinterpret_cast<Address>(start));
    if (next == pinned.begin()) return false;
    --next;
    return reinterpret_cast<Address>(start) + bytes <= next->first + next->second;
}

/// Do the text and the kernel's source agree on the parameters?
bool same_parameters(const void* ptx, const Kernel& kernel) {
    size_t place[2], number = 0;
    for (; interpreter->parameter(ptx, number, &place); number++) {
        if (number == kernel.parameters.size() || place[1] != kernel.parameters[number]) return false;
    }
    return number == kernel.parameters.size();
}

/// All parameters, each where the text has it.
std::vector<char> packed(const void* ptx, const std::vector<std::vector<char>>& parameters) {
    std::vector<char> bytes;
    size_t place[2];
    for (size_t i = 0; interpreter->parameter(ptx, i, &place); i++) {
        bytes.resize(place[0] + place[1]);
        memcpy(&bytes[place[0]], parameters[i].data(), place[1]);
    }
    return bytes;
}

/// Runs the loaded text.
int interpret(const Function& function, dim3 grid, dim3 size, size_t shared,
              const std::vector<std::vector<char>>& parameters) {
    std::vector<Region> regions;
    {
        std::lock_guard<std::mutex> guard(lock);
        for (auto [start, allocation] : allocations) {
            if (allocation.device == function.device) regions.push_back({start, allocation.bytes});
        }
    }
    std::vector<char> bytes = packed(function.ptx, parameters);
    Request request = {{grid.x, grid.y, grid.z}, {size.x, size.y, size.z}, shared, bytes.data(), bytes.size(),
                       regions.data(), regions.size(), int(values[ORDER]), unsigned(values[SEED]),
                       int(values[SUMS]), values[FUSED] != 0};
    return interpreter->launch(function.ptx, &request) ? SUCCESS : LAUNCH_FAILED;
}

/// A copy between host and device. Pageable memory may be gone when a graph is launched.
int copy(void* to, const void* from, const void* host, size_t bytes, Handle stream) {
    if (!is_pinned(host, bytes)) {
        if (static_cast<Stream*>(stream)->capturing) return STREAM_CAPTURE_UNSUPPORTED;
        counters[PAGEABLE_COPIES]++;
    }
    return submit(stream, [=] {
        memcpy(to, from, bytes);
        return SUCCESS;
    });
}

/// Gives memory back to the GPU that the stream has been waited for.
void trim() {
    auto gone = [](const Freed& block) {
        if (!block.waited_for) return false;
        in_use[block.device] -= long(block.bytes);
        free(reinterpret_cast<void*>(block.address));
        return true;
    };
    freed.erase(std::remove_if(freed.begin(), freed.end(), gone), freed.end());
}

/// Everything that was asked for is done.
int waited() {
    counters[SYNCHRONISATIONS]++;
    under_way = false;
    if (lost_by_now()) return LAUNCH_FAILED;
    for (Freed& block : freed) block.waited_for = true;
    if (!values[KEEPS_FREED]) trim();
    return SUCCESS;
}

/// Exactly what was asked for, and a guard; NaN until written.
int allocate(Address* address, size_t bytes) {
    int device = current_device();
    if (device < 0) return INVALID_CONTEXT;
    if (in_use[device] + long(bytes) > values[MEMORY]) return OUT_OF_MEMORY;
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes + GUARD) != 0) return OUT_OF_MEMORY;
    fill(reinterpret_cast<Address>(memory), bytes + GUARD);
    *address = reinterpret_cast<Address>(memory);
    std::lock_guard<std::mutex> guard(lock);
    allocations[*address] = {bytes, device};
    counters[ALLOCATIONS]++;
    in_use[device] += long(bytes);
    counters[BYTES_IN_USE] += long(bytes);
    return SUCCESS;
}

}  // namespace

extern "C" {

void emulator_set(int setting, long value) {
    values[setting] = value;
    emulator::settings().order = int(values[ORDER]);
    emulator::settings().seed = uint32_t(values[SEED]);
}

void emulator_interpreter(const Interpreter* functions) { interpreter = functions; }

/// How often this thread has done something so far.
long emulator_count(int counter) { return counters[counter]; }

int cuInit(unsigned) { return values[DEVICES] ? SUCCESS : NO_DEVICE; }
int cuDriverGetVersion(int* version) {
    *version = int(values[VERSION]);
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
        case 16: *value = 132; break;                              // multiprocessors
        case 115: *value = 1; break;                               // memory is given in stream order
        case 75: *value = int(values[CAPABILITY] / 10); break;     // compute capability, major
        case 76: *value = int(values[CAPABILITY] % 10); break;     // and minor
        case 97: *value = SHARED_LIMIT; break;                     // shared memory a block can ask for
        default: *value = 0;
    }
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(Handle* context, int device) {
    if (device >= MOST_DEVICES) return INVALID_DEVICE;
    *context = &contexts[device];
    return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(Handle context) {
    current_context = static_cast<Context*>(context);
    return SUCCESS;
}
int cuCtxGetCurrent(Handle* context) {
    *context = current_context;
    return SUCCESS;
}
int cuCtxSynchronize() { return waited(); }
int cuGetErrorName(int result, const char** name) {
    switch (result) {
        case LAUNCH_OUT_OF_RESOURCES: *name = "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"; break;
        case LAUNCH_FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
        case STREAM_CAPTURE_ISOLATION: *name = "CUDA_ERROR_STREAM_CAPTURE_ISOLATION"; break;
        default: *name = "CUDA_ERROR_OF_THE_EMULATOR";
    }
    return SUCCESS;
}
int cuGetErrorString(int, const char** text) {
    *text = "an error of the emulated driver";
    return SUCCESS;
}
int cuStreamCreate(Handle* stream, unsigned) {
    *stream = new Stream;
    return SUCCESS;
}
int cuStreamDestroy_v2(Handle stream) {
    delete static_cast<Stream*>(stream);
    return SUCCESS;
}
int cuStreamSynchronize(Handle stream) {
    if (static_cast<Stream*>(stream)->capturing) return STREAM_CAPTURE_UNSUPPORTED;
    return waited();
}
int cuStreamBeginCapture_v2(Handle stream, int) {
    static_cast<Stream*>(stream)->capturing = new Graph;
    capturing_streams++;
    return SUCCESS;
}
int cuStreamEndCapture(Handle stream, Handle* graph) {
    *graph = static_cast<Stream*>(stream)->capturing;
    static_cast<Stream*>(stream)->capturing = nullptr;
    capturing_streams--;
    return SUCCESS;
}
int cuGraphInstantiateWithFlags(Handle* executable, Handle graph, unsigned long long) {
    *executable = new Graph(*static_cast<Graph*>(graph));
    return SUCCESS;
}
int cuGraphLaunch(Handle executable, Handle) {
    if (lost()) return LAUNCH_FAILED;
    counters[GRAPH_LAUNCHES]++;
    under_way = true;
    for (auto& node : *static_cast<Graph*>(executable)) {
        if (stopped()) break;
        if (int failure = node()) return failure;
    }
    return SUCCESS;
}
int cuGraphExecDestroy(Handle executable) {
    delete static_cast<Graph*>(executable);
    return SUCCESS;
}
int cuGraphDestroy(Handle graph) {
    delete static_cast<Graph*>(graph);
    return SUCCESS;
}
/// What is captured can only wait for what is captured with it, and the other way round.
int cuStreamWaitEvent(Handle stream, Handle event, unsigned) {
    return capture_of(stream) == static_cast<Event*>(event)->capture ? SUCCESS : STREAM_CAPTURE_ISOLATION;
}
int cuEventCreate(Handle* event, unsigned) {
    *event = new Event;
    return SUCCESS;
}
int cuEventDestroy_v2(Handle event) {
    delete static_cast<Event*>(event);
    return SUCCESS;
}
int cuEventRecord(Handle event, Handle stream) {
    static_cast<Event*>(event)->capture = capture_of(stream);
    return SUCCESS;
}

int cuMemAlloc_v2(Address* address, size_t bytes) {
    if (lost()) return LAUNCH_FAILED;
    if (capturing_streams) return STREAM_CAPTURE_UNSUPPORTED;
    return allocate(address, bytes);
}
int cuMemAllocAsync(Address* address, size_t bytes, Handle stream) {
    if (lost()) return LAUNCH_FAILED;
    // A graph with memory of its own is not what is meant.
    if (static_cast<Stream*>(stream)->capturing) return STREAM_CAPTURE_UNSUPPORTED;
    int device = current_device();
    auto fits = [&](const Freed& block) { return block.device == device && block.bytes == bytes; };
    auto again = std::find_if(freed.begin(), freed.end(), fits);
    if (again == freed.end()) return allocate(address, bytes);
    *address = again->address;
    freed.erase(again);
    fill(*address, bytes + GUARD);
    counters[BYTES_IN_USE] += long(bytes);
    std::lock_guard<std::mutex> guard(lock);
    allocations[*address] = {bytes, device};
    return SUCCESS;
}
int cuMemFreeAsync(Address address, Handle stream) {
    if (static_cast<Stream*>(stream)->capturing) return STREAM_CAPTURE_UNSUPPORTED;
    std::lock_guard<std::mutex> guard(lock);
    auto found = allocations.find(address);
    if (found == allocations.end()) return INVALID_VALUE;
    freed.push_back({address, found->second.bytes, found->second.device, false});
    counters[BYTES_IN_USE] -= long(found->second.bytes);
    allocations.erase(found);
    return SUCCESS;
}
int cuDeviceGetDefaultMemPool(Handle* pool, int device) {
    *pool = &contexts[device];
    return SUCCESS;
}
int cuMemPoolTrimTo(Handle, size_t) {
    trim();
    return SUCCESS;
}
int cuMemGetInfo_v2(size_t* available, size_t* total) {
    int device = current_device();
    if (device < 0) return INVALID_CONTEXT;
    *total = size_t(values[MEMORY]);
    *available = *total - size_t(in_use[device]);
    return SUCCESS;
}
int cuMemFree_v2(Address address) {
    if (capturing_streams) return STREAM_CAPTURE_UNSUPPORTED;
    std::lock_guard<std::mutex> guard(lock);
    auto found = allocations.find(address);
    if (found == allocations.end()) return INVALID_VALUE;
    in_use[found->second.device] -= long(found->second.bytes);
    counters[BYTES_IN_USE] -= long(found->second.bytes);
    allocations.erase(found);
    free(reinterpret_cast<void*>(address));
    return SUCCESS;
}
int cuMemHostAlloc(Handle* memory, size_t bytes, unsigned) {
    if (lost()) return LAUNCH_FAILED;
    if (posix_memalign(memory, 256, bytes) != 0) return OUT_OF_MEMORY;
    std::lock_guard<std::mutex> guard(lock);
    pinned[reinterpret_cast<Address>(*memory)] = bytes;
    counters[ALLOCATIONS]++;
    return SUCCESS;
}
int cuMemFreeHost(Handle memory) {
    std::lock_guard<std::mutex> guard(lock);
    if (!pinned.erase(reinterpret_cast<Address>(memory))) return INVALID_VALUE;
    free(memory);
    return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Handle stream) {
    if (!inside_an_allocation(to, bytes)) return INVALID_VALUE;
    return copy(reinterpret_cast<void*>(to), from, from, bytes, stream);
}
int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Handle stream) {
    if (!inside_an_allocation(from, bytes)) return INVALID_VALUE;
    return copy(to, reinterpret_cast<void*>(from), to, bytes, stream);
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Handle stream) {
    if (!inside_an_allocation(from, bytes) || !inside_an_allocation(to, bytes)) return INVALID_VALUE;
    return submit(stream, [=] {
        memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
        return SUCCESS;
    });
}
int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, Handle stream) {
    if (!inside_an_allocation(to, bytes)) return INVALID_VALUE;
    return submit(stream, [=] {
        memset(reinterpret_cast<void*>(to), value, bytes);
        return SUCCESS;
    });
}

/// A module is the set of the entry points that its PTX names.
int cuModuleLoadData(Handle* module, const void* image) {
    if (values[REFUSE_PTX]) return UNSUPPORTED_PTX_VERSION;
    std::string text(static_cast<const char*>(image));
    const void* ptx = nullptr;
    if (values[INTERPRET] && !(ptx = interpreter->load(static_cast<const char*>(image)))) return INVALID_PTX;
    auto* loaded = new Module{current_device(), ptx, {}, {}};
    const std::string word = ".entry ";
    for (size_t at = 0; (at = text.find(word, at)) != text.npos;) {
        at += word.size();
        loaded->names.insert(text.substr(at, text.find_first_of("( \n", at) - at));
    }
    *module = loaded;
    return loaded->names.empty() ? INVALID_PTX : SUCCESS;
}
int cuModuleUnload(Handle module) {
    if (under_way) fprintf(stderr, "emulator: a module is unloaded while its kernels may run\n"), abort();
    delete static_cast<Module*>(module);
    return SUCCESS;
}
int cuModuleGetFunction(Handle* function, Handle module, const char* name) {
    auto* loaded = static_cast<Module*>(module);
    auto found = kernels().find(name);
    if (found == kernels().end() || !loaded->names.count(name)) return NOT_FOUND;
    const void* ptx = loaded->ptx ? interpreter->entry(loaded->ptx, name) : nullptr;
    if (loaded->ptx && !ptx) return NOT_FOUND;
    if (ptx && !same_parameters(ptx, found->second)) {
        fprintf(stderr, "emulator: %s has other parameters in the PTX than in its source\n", name);
        return INVALID_PTX;
    }
    *function = &loaded->functions.try_emplace(name, Function{&found->second, ptx, loaded->device}).first->second;
    return SUCCESS;
}
int cuFuncSetAttribute(Handle function, int attribute, int value) {
    constexpr int MAX_DYNAMIC_SHARED = 8;
    if (attribute != MAX_DYNAMIC_SHARED) return SUCCESS;
    if (value > SHARED_LIMIT) return INVALID_VALUE;
    static_cast<Function*>(function)->shared_limit = value;
    return SUCCESS;
}
int cuFuncGetAttribute(int* value, int attribute, Handle) {
    constexpr int MAX_THREADS = 0;
    *value = attribute == MAX_THREADS ? 1024 : 0;
    return SUCCESS;
}
int cuLaunchKernel(Handle handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x, unsigned y, unsigned z,
                   unsigned shared, Handle stream, void** parameters, void**) {
    auto* function = static_cast<Function*>(handle);
    const Kernel* kernel = function->kernel;
    constexpr unsigned GRID_LIMIT = 65535, BLOCK_LIMIT = 1024;
    if (values[FAIL_LAUNCH]) return LAUNCH_OUT_OF_RESOURCES;
    if (function->device != current_device()) return INVALID_CONTEXT;
    if (!grid_x || !grid_y || !grid_z || !x || !y || !z) return INVALID_VALUE;
    if (grid_y > GRID_LIMIT || grid_z > GRID_LIMIT || x * y * z > BLOCK_LIMIT) return INVALID_VALUE;
    size_t shared_of_text = function->ptx ? interpreter->shared_bytes(function->ptx) : 0;
    if (shared + shared_of_text > size_t(function->shared_limit)) return INVALID_VALUE;
    // A graph is launched when the caller's parameters are long gone.
    std::vector<std::vector<char>> copies;
    for (size_t i = 0; i < kernel->parameters.size(); i++) {
        const char* from = static_cast<const char*>(parameters[i]);
        copies.emplace_back(from, from + kernel->parameters[i]);
    }
    if (!static_cast<Stream*>(stream)->capturing) counters[LAUNCHES]++;
    return submit(stream, [=]() mutable {
        if (values[LAUNCHES_LEFT] > 0 && current_device() == values[DEVICES] - 1) values[LAUNCHES_LEFT]--;
        if (function->ptx) return interpret(*function, {grid_x, grid_y, grid_z}, {x, y, z}, shared, copies);
        std::vector<void*> pointers;
        for (auto& copy : copies) pointers.push_back(copy.data());
        emulator::settings().hopper_sums = values[SUMS] != 0;
        kernel->run({grid_x, grid_y, grid_z}, {x, y, z}, shared, pointers.data());
        check_guards(kernel->name);
        return int(SUCCESS);
    });
}
}
