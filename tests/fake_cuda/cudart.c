/* CUDA's runtime without a GPU: memory, copies, streams, events, captures and errors are kept, kernels do nothing.

   What a test can set, by environment variables:
     FAKE_CUDA_LOG=FILE            a line for each call worth counting: "thread call details"
     FAKE_CUDA_DEVICES=N           how many GPUs there are (1)
     FAKE_CUDA_MEMORY=BYTES        of each (150e9)
     FAKE_CUDA_CAPABILITY=N        ten times the compute capability of each (90)
     FAKE_CUDA_DRIVER=VERSION      that the driver is for (13000); below the runtime's all calls fail with 35
     FAKE_CUDA_FAIL=CALL:ERROR:N   the Nth such call, and those after it, give this error; CALL `kernel` is any launch
     FAKE_CUDA_KERNEL_US=N         how long a kernel keeps its stream busy (0)
     FAKE_CUDA_LAUNCH_US=N         how long a launch keeps its caller busy (0)  */
#define _GNU_SOURCE
#include "fake.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS, INVALID = 1, NO_MEMORY = 2, OLD_DRIVER = 35, NO_DEVICE = 100, NO_SUCH_DEVICE = 101,
       ILLEGAL_ADDRESS = 700, ALREADY_LOCKED = 712, CAPTURING = 900, INVALIDATED = 901 };
enum { HOST = 1, DEVICE = 2 };           /* kinds of memory, as cudaMemoryType has them */
enum { TO_DEVICE = 1, TO_HOST = 2 };     /* kinds of copies, as cudaMemcpyKind has them */
#define RUNTIME 13000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int device, last_error;

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text && *text ? atol(text) : otherwise;
}

/* ---- the log */

void fake_log(const char *call, const char *format, ...) {
    static int file = -2;
    if (file == -2) {
        const char *path = getenv("FAKE_CUDA_LOG");
        file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    }
    if (file < 0) return;
    char details[400] = "", line[600];
    va_list given;
    va_start(given, format);
    vsnprintf(details, sizeof details, format, given);
    va_end(given);
    int length = snprintf(line, sizeof line, "%ld %s %s\n", (long)syscall(SYS_gettid), call, details);
    if (write(file, line, (size_t)length) < 0) file = -1;
}

int fake_failure(const char *call) {
    static int calls;
    char name[100] = "";
    int error = 0, nth = 1;
    const char *text = getenv("FAKE_CUDA_FAIL");
    if (!text || sscanf(text, "%99[^:]:%d:%d", name, &error, &nth) < 2 || strcmp(name, call)) return 0;
    return __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) >= nth ? error : 0;
}

void *fake_object(void) { return calloc(1, 4096); }

static int result(int error, const char *call) {
    if (error) {
        last_error = error;
        fake_log("error", "%d %s", error, call);
    }
    return error;
}

static int devices(void) { return (int)setting("FAKE_CUDA_DEVICES", 1); }

/* Why there is no GPU to work on, or 0. */
static int absent(void) {
    if (setting("FAKE_CUDA_DRIVER", RUNTIME) < RUNTIME) return OLD_DRIVER;
    return devices() ? SUCCESS : NO_DEVICE;
}

/* ---- time: a stream is busy until some moment, and who waits for it waits until then */

typedef struct Copy { const void *source; void *was; size_t bytes; struct Copy *next; } Copy;
typedef struct { long kernels; Copy *copies; } Graph;
typedef struct { long until; int capturing; Graph graph; } Stream;
typedef struct { long at; } Event;

static Stream default_stream;
static Stream *captured; /* the stream that is being captured, in mode Global: it concerns every thread */
static long launches;

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void wait_until(long moment) {
    long left = moment - now();
    if (left > 0) nanosleep(&(struct timespec){left / 1000000000L, left % 1000000000L}, NULL);
}

static Stream *stream_of(Stream *stream) { return (size_t)stream <= 2 ? &default_stream : stream; }

static void busy(Stream *stream, long microseconds) {
    long from = now();
    stream->until = (stream->until > from ? stream->until : from) + microseconds * 1000;
}

/* What waits, allocates or copies on the default stream is refused while anybody captures in mode Global. */
static int refused(const char *call) {
    int error = absent();
    if (!error) error = fake_failure(call);
    if (!error && captured) error = CAPTURING;
    return result(error, call);
}

/* ---- memory */

typedef struct Block { char *at; size_t bytes; int kind, device; struct Block *next; } Block;
static Block *blocks;
static size_t used[16];

static size_t memory(void) { return (size_t)setting("FAKE_CUDA_MEMORY", 150000000000L); }

static int take(void **at, size_t bytes, int kind, const char *call) {
    *at = NULL;
    int error = refused(call);
    if (error) return error;
    pthread_mutex_lock(&lock);
    if (kind == DEVICE && used[device] + bytes > memory()) {
        pthread_mutex_unlock(&lock);
        return result(NO_MEMORY, call);
    }
    /* Pages that nobody touches are none: an arena of a whole GPU fits. */
    Block *block = malloc(sizeof *block);
    size_t mapped = bytes ? bytes : 1;
    *block = (Block){mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
                     mapped, kind, device, blocks};
    blocks = block;
    if (kind == DEVICE) used[device] += mapped;
    pthread_mutex_unlock(&lock);
    *at = block->at;
    fake_log(call, "%zu used %zu", bytes, used[device]);
    return SUCCESS;
}

static int give(void *at, const char *call) {
    int error = at ? refused(call) : SUCCESS;
    if (error || !at) return error;
    pthread_mutex_lock(&lock);
    Block **found = &blocks;
    while (*found && (*found)->at != at) found = &(*found)->next;
    Block *block = *found;
    if (block) {
        *found = block->next;
        if (block->kind == DEVICE) used[block->device] -= block->bytes;
        munmap(block->at, block->bytes);
        free(block);
    }
    pthread_mutex_unlock(&lock);
    fake_log(call, "used %zu", used[device]);
    return block ? SUCCESS : result(INVALID, call);
}

/* Whether a page of these bytes is locked already, which CUDA refuses. */
static int overlaps(const char *at, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), first = (size_t)at / page, last = ((size_t)at + bytes - 1) / page;
    int found = 0;
    pthread_mutex_lock(&lock);
    for (Block *block = blocks; block; block = block->next)
        found |= block->kind == HOST && (size_t)block->at / page <= last && ((size_t)block->at + block->bytes - 1) / page >= first;
    pthread_mutex_unlock(&lock);
    return found;
}

/* Memory of the caller's that is locked in its place: it counts as pinned, and stays the caller's. */
int cudaHostRegister(void *at, size_t bytes, unsigned flags) {
    int error = refused("cudaHostRegister");
    if (!error && overlaps(at, bytes)) error = result(ALREADY_LOCKED, "cudaHostRegister");
    if (error) return error;
    Block *block = malloc(sizeof *block);
    pthread_mutex_lock(&lock);
    *block = (Block){at, bytes, HOST, device, blocks};
    blocks = block;
    pthread_mutex_unlock(&lock);
    fake_log("cudaHostRegister", "%zu", bytes);
    return SUCCESS;
}
int cudaHostUnregister(void *at) {
    pthread_mutex_lock(&lock);
    Block **found = &blocks;
    while (*found && (*found)->at != at) found = &(*found)->next;
    Block *block = *found;
    if (block) *found = block->next;
    pthread_mutex_unlock(&lock);
    free(block);
    fake_log("cudaHostUnregister", "");
    return block ? SUCCESS : result(INVALID, "cudaHostUnregister");
}

static Block found_at(const void *at) {
    Block found = {0};
    pthread_mutex_lock(&lock);
    for (Block *block = blocks; block && !found.kind; block = block->next)
        if ((char *)at >= block->at && (char *)at < block->at + block->bytes) found = *block;
    pthread_mutex_unlock(&lock);
    return found;
}

int cudaMalloc(void **at, size_t bytes) { return take(at, bytes, DEVICE, "cudaMalloc"); }
int cudaMallocFromPoolAsync(void **at, size_t n, void *pool, void *s) { return take(at, n, DEVICE, "cudaMallocFromPoolAsync"); }
int cudaHostAlloc(void **at, size_t bytes, unsigned flags) { return take(at, bytes, HOST, "cudaHostAlloc"); }
int cudaMallocHost(void **at, size_t bytes) { return take(at, bytes, HOST, "cudaMallocHost"); }
int cudaFree(void *at) { return give(at, "cudaFree"); }
int cudaFreeAsync(void *at, void *stream) { return give(at, "cudaFreeAsync"); }
int cudaFreeHost(void *at) { return give(at, "cudaFreeHost"); }
int cudaMemGetInfo(size_t *left, size_t *total) { *total = memory(); *left = *total - used[device]; return result(absent(), "cudaMemGetInfo"); }

/* cudaPointerAttributes begins so. */
int cudaPointerGetAttributes(struct { int type, device; void *on_device, *on_host; } *told, const void *at) {
    Block block = found_at(at);
    memset(told, 0, 88);
    told->type = block.kind;
    told->device = block.device;
    told->on_device = block.kind ? (void *)at : NULL;
    told->on_host = block.kind == HOST ? (void *)at : NULL;
    return SUCCESS;
}

/* ---- copies: numbers do move, so that a copy to the wrong place is seen */

static int copy(void *to, const void *from, size_t bytes, int kind, Stream *stream, const char *call) {
    int source = found_at(from).kind, target = found_at(to).kind;
    const char *host = kind == TO_DEVICE ? (source == HOST ? "pinned" : "pageable")
                       : kind == TO_HOST ? (target == HOST ? "pinned" : "pageable") : "none";
    if ((kind == TO_DEVICE && target != DEVICE) || (kind == TO_HOST && source != DEVICE)) return result(INVALID, call);
    int capturing = stream && stream->capturing;
    fake_log(call, "kind %d bytes %zu host %s%s", kind, bytes, host, capturing ? " captured" : "");
    if (capturing && kind == TO_DEVICE) {
        Copy *kept = malloc(sizeof *kept);
        *kept = (Copy){from, memcpy(malloc(bytes), from, bytes), bytes, stream->graph.copies};
        stream->graph.copies = kept;
    }
    memcpy(to, from, bytes);
    return SUCCESS;
}

int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
    int error = refused("cudaMemcpy");
    if (error) return error;
    wait_until(default_stream.until);
    return copy(to, from, bytes, kind, NULL, "cudaMemcpy");
}
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, Stream *stream) {
    stream = stream_of(stream);
    if (kind == TO_HOST) wait_until(stream->until); /* into pageable memory it returns when it has ended */
    return copy(to, from, bytes, kind, stream, "cudaMemcpyAsync");
}
int cudaMemcpy2DAsync(char *to, size_t to_pitch, const char *from, size_t from_pitch, size_t width, size_t height, int kind, void *s) {
    fake_log("cudaMemcpy2DAsync", "kind %d bytes %zu", kind, width * height);
    for (size_t row = 0; row < height; row++) memcpy(to + row * to_pitch, from + row * from_pitch, width);
    return SUCCESS;
}
int cudaMemset(void *at, int value, size_t bytes) {
    int error = refused("cudaMemset");
    if (error) return error;
    fake_log("cudaMemset", "bytes %zu", bytes);
    memset(at, value, bytes);
    return SUCCESS;
}
int cudaMemsetAsync(void *at, int value, size_t bytes, void *stream) { memset(at, value, bytes); return SUCCESS; }

/* ---- devices and errors */

typedef struct { /* cudaDeviceProp of CUDA 13, as far as somebody looks */
    char name[256], ids[32];
    size_t memory, shared_a_block;
    int registers_a_block, warp;
    size_t pitch;
    int threads_a_block, threads[3], grid[3];
    size_t constants;
    int major, minor;
    char a[384 - 368];
    int processors;
    char b[560 - 388];
    int concurrent;
    char c[588 - 564];
    int unified;
    char d[596 - 592];
    int l2, e, threads_a_processor;
    char f[624 - 608];
    size_t shared_a_processor;
    int registers_a_processor;
    char g[672 - 636];
    size_t shared_at_most;
    char h[688 - 680];
    int blocks_a_processor;
    char i[720 - 692];
    int pools;
    char j[1008 - 724];
} Properties;
_Static_assert(sizeof(Properties) == 1008, "cudaDeviceProp of CUDA 13 has 1008 bytes");

static int capability(void) { return (int)setting("FAKE_CUDA_CAPABILITY", 90); }

static Properties properties(void) { /* of an H200 */
    return (Properties){.name = "NVIDIA H200 (fake)", .memory = memory(), .shared_a_block = 49152, .registers_a_block = 65536,
        .warp = 32, .threads_a_block = 1024, .threads = {1024, 1024, 64}, .grid = {2147483647, 65535, 65535},
        .constants = 65536, .major = capability() / 10, .minor = capability() % 10, .processors = 132, .concurrent = 1, .unified = 1, .l2 = 62914560,
        .threads_a_processor = 2048, .shared_a_processor = 233472, .registers_a_processor = 65536,
        .shared_at_most = 232448, .blocks_a_processor = 32, .pools = 1};
}
int cudaGetDeviceProperties(Properties *told, int number) {
    *told = properties();
    return result(absent() ? absent() : number < devices() ? SUCCESS : NO_SUCH_DEVICE, "cudaGetDeviceProperties");
}
int cudaDeviceGetAttribute(int *value, int attribute, int number) {
    static const int known[][2] = {{1, 1024}, {8, 49152}, {10, 32}, {16, 132}, {38, 62914560}, {39, 2048}, {81, 233472}, {97, 232448}};
    *value = 1;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) if (known[i][0] == attribute) *value = known[i][1];
    if (attribute == 75 || attribute == 76) *value = attribute == 75 ? capability() / 10 : capability() % 10;
    return result(absent(), "cudaDeviceGetAttribute");
}
int cudaGetDeviceCount(int *count) { *count = devices(); return result(absent(), "cudaGetDeviceCount"); }
int cudaGetDevice(int *number) { *number = device; return result(absent(), "cudaGetDevice"); }
int cudaSetDevice(int number) {
    int error = absent() ? absent() : number < devices() ? SUCCESS : NO_SUCH_DEVICE;
    if (!error) device = number;
    return result(error, "cudaSetDevice");
}
int cudaDriverGetVersion(int *version) { *version = (int)setting("FAKE_CUDA_DRIVER", RUNTIME); return SUCCESS; }
int cudaRuntimeGetVersion(int *version) { *version = RUNTIME; return SUCCESS; }
int cudaGetLastError(void) { int error = last_error; last_error = SUCCESS; return error; }
int cudaPeekAtLastError(void) { return last_error; }

const char *cudaGetErrorString(int error) { /* in NVIDIA's words */
    switch (error) {
    case SUCCESS: return "no error";
    case NO_MEMORY: return "out of memory";
    case OLD_DRIVER: return "CUDA driver version is insufficient for CUDA runtime version";
    case NO_DEVICE: return "no CUDA-capable device is detected";
    case NO_SUCH_DEVICE: return "invalid device ordinal";
    case ILLEGAL_ADDRESS: return "an illegal memory access was encountered";
    case CAPTURING: return "operation not permitted when stream is capturing";
    case ALREADY_LOCKED: return "part or all of the requested memory range is already mapped";
    case INVALIDATED: return "operation failed due to a previous error during capture";
    default: return "invalid argument";
    }
}
const char *cudaGetErrorName(int error) {
    static __thread char name[32];
    snprintf(name, sizeof name, "cudaError%d", error);
    return name;
}

/* ---- streams, events, captures */

int cudaStreamCreateWithFlags(Stream **stream, unsigned flags) {
    *stream = calloc(1, sizeof **stream);
    fake_log("cudaStreamCreate", "%p", (void *)*stream);
    return result(absent(), "cudaStreamCreate");
}
int cudaStreamCreate(Stream **stream) { return cudaStreamCreateWithFlags(stream, 0); }
int cudaStreamDestroy(Stream *stream) { fake_log("cudaStreamDestroy", "%p", (void *)stream); return SUCCESS; }
int cudaStreamSynchronize(Stream *stream) {
    int error = refused("cudaStreamSynchronize");
    if (!error) wait_until(stream_of(stream)->until);
    return error;
}
int cudaDeviceSynchronize(void) { return cudaStreamSynchronize(NULL); }
int cudaStreamWaitEvent(Stream *stream, Event *event, unsigned flags) {
    if (event->at > stream_of(stream)->until) stream_of(stream)->until = event->at;
    return SUCCESS;
}
int cudaEventCreateWithFlags(Event **event, unsigned flags) { *event = calloc(1, sizeof **event); return SUCCESS; }
int cudaEventCreate(Event **event) { return cudaEventCreateWithFlags(event, 0); }
int cudaEventDestroy(Event *event) { free(event); return SUCCESS; }
int cudaEventRecord(Event *event, Stream *stream) { busy(stream_of(stream), 0); event->at = stream_of(stream)->until; return SUCCESS; }
int cudaEventRecordWithFlags(Event *event, Stream *stream, unsigned flags) { return cudaEventRecord(event, stream); }
int cudaEventSynchronize(Event *event) {
    int error = refused("cudaEventSynchronize");
    if (!error) wait_until(event->at);
    return error;
}
int cudaEventElapsedTime(float *milliseconds, Event *from, Event *to) { *milliseconds = (float)(to->at - from->at) / 1e6f; return SUCCESS; }
int cudaLaunchHostFunc(Stream *stream, void (*call)(void *), void *data) { wait_until(stream_of(stream)->until); call(data); return SUCCESS; }

int cudaStreamBeginCapture(Stream *stream, int mode) {
    int error = refused("cudaStreamBeginCapture");
    if (error) return error;
    fake_log("cudaStreamBeginCapture", "mode %d", mode);
    stream->capturing = 1;
    stream->graph = (Graph){0};
    if (mode == 0) captured = stream;
    return SUCCESS;
}
int cudaStreamEndCapture(Stream *stream, Graph **graph) {
    captured = NULL;
    stream->capturing = 0;
    *graph = malloc(sizeof **graph);
    **graph = stream->graph;
    fake_log("cudaStreamEndCapture", "kernels %ld", (*graph)->kernels);
    return SUCCESS;
}
int cudaStreamIsCapturing(Stream *stream, int *state) { *state = stream_of(stream)->capturing; return SUCCESS; }
int cudaGraphInstantiate(Graph **made, Graph *graph, unsigned long long flags) {
    int copies = 0;
    for (Copy *each = graph->copies; each; each = each->next) copies++;
    *made = malloc(sizeof **made);
    **made = *graph;
    fake_log("cudaGraphInstantiate", "%p kernels %ld copies %d", (void *)*made, graph->kernels, copies);
    return SUCCESS;
}
/* A copy that was captured reads its source again: `stale` counts those whose source holds something else by now. */
int cudaGraphLaunch(Graph *graph, Stream *stream) {
    int error = fake_failure("cudaGraphLaunch"), stale = 0;
    for (Copy *each = graph->copies; each; each = each->next) stale += memcmp(each->was, each->source, each->bytes) != 0;
    fake_log("cudaGraphLaunch", "%p stale %d", (void *)graph, stale);
    busy(stream_of(stream), graph->kernels * setting("FAKE_CUDA_KERNEL_US", 0));
    return result(error, "cudaGraphLaunch");
}
int cudaGraphDestroy(Graph *graph) { return SUCCESS; }
int cudaGraphExecDestroy(Graph *graph) { fake_log("cudaGraphExecDestroy", "%p", (void *)graph); return SUCCESS; }

/* ---- kernels: they have names, by which a test sees which were chosen */

typedef struct { const void *host; const char *name; int launched; } Kernel;
#define SLOTS (1 << 17)
static Kernel kernels[SLOTS];

static Kernel *kernel_of(const void *host) {
    size_t slot = ((size_t)host >> 4) * 2654435761u % SLOTS;
    while (kernels[slot].host && kernels[slot].host != host) slot = (slot + 1) % SLOTS;
    return &kernels[slot];
}
void __cudaRegisterFunction(void **library, const char *host, char *on_device, const char *name, int limit, void *a, void *b, void *c, void *d, int *e) {
    *kernel_of(host) = (Kernel){host, name, 0};
}
static int launch(const void *host, Stream *stream) {
    static long costs[2] = {-1, -1};
    if (costs[0] < 0) costs[0] = setting("FAKE_CUDA_KERNEL_US", 0), costs[1] = setting("FAKE_CUDA_LAUNCH_US", 0);
    if (costs[1]) wait_until(now() + costs[1] * 1000);
    Kernel *kernel = kernel_of(host);
    stream = stream_of(stream);
    if (!kernel->launched++) fake_log("kernel", "%s", kernel->name ? kernel->name : "unknown"); /* each once, not each launch */
    __atomic_add_fetch(&launches, 1, __ATOMIC_RELAXED);
    if (stream->capturing) stream->graph.kernels++;
    else if (costs[0]) busy(stream, costs[0]);
    return result(fake_failure("kernel"), "kernel");
}
/* How many kernels this process has launched; a replayed graph launches none. */
long fake_cuda_launches(void) { return launches; }

typedef struct { unsigned x, y, z; } Size;
typedef struct { Size grid, block; size_t shared; Stream *stream; } Configuration; /* cudaLaunchConfig_t begins so */
int cudaLaunchKernel(const void *host, Size grid, Size block, void **arguments, size_t shared, Stream *stream) { return launch(host, stream); }
int __cudaLaunchKernel(const void *host, Size grid, Size block, void **arguments, size_t shared, Stream *stream) { return launch(host, stream); }
int cudaLaunchCooperativeKernel(const void *host, Size grid, Size block, void **arguments, size_t shared, Stream *stream) { return launch(host, stream); }
int cudaLaunchKernelExC(const Configuration *how, const void *host, void **arguments) { return launch(host, how->stream); }
int __cudaGetKernel(const void **kernel, const void *host) { *kernel = host; return SUCCESS; }
int __cudaPopCallConfiguration(Size *grid, Size *block, size_t *shared, void **stream) { *shared = 0; *stream = NULL; return SUCCESS; }
void *__cudaRegisterFatBinary(void *code) { static void *library; return &library; }
/* cudaFuncAttributes begins so. */
int cudaFuncGetAttributes(struct { size_t shared, constants, local; int threads, registers, ptx, binary, cache, shared_at_most; } *told, const void *host) {
    memset(told, 0, 144);
    told->threads = 1024, told->registers = 32, told->ptx = told->binary = 90, told->shared_at_most = 232448;
    return SUCCESS;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, const void *host, int threads, size_t shared, unsigned flags) { *count = 2; return SUCCESS; }
int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags, int *state) { *function = NULL; *state = 1; return SUCCESS; }
