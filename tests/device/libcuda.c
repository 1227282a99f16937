// A CUDA driver that is none, and NVML: for tests of what calls them. Device memory is the
// process's own; kernels are known by their names; a file tells what was launched.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

typedef int R;
enum { OK, INVALID_VALUE = 1, OOM = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_IMAGE = 200,
       NO_BINARY_FOR_GPU = 209, INVALID_PTX = 218, UNSUPPORTED_PTX_VERSION = 222,
       OPERATING_SYSTEM = 304, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, OUT_OF_RESOURCES = 701 };
#define MOST (1ull << 30)
#define MAJOR 9
#define MINOR 0
#define ALIVE if (dead) return dead

static R dead;       // after a kernel that crashed every call says so
static int begun;
static size_t used;
static struct { void *at; size_t size; } held[1000];

typedef struct { char name[64]; int parameters; int shared; int threads; } Function;
typedef struct { char text[1 << 16]; Function functions[32]; int count; } Module;
typedef struct { Function *function; uint64_t values[16]; unsigned sizes[7]; } Work;
typedef struct { Work work[5000]; int count; } Graph;
typedef struct { double at; } Event;

static Graph *capturing;

static void *waits(void *unused) { for (;;) pause(); }

static void say(const char *text) {
  const char *path = getenv("STUB_LOG");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (file) { fprintf(file, "%s\n", text); fclose(file); }
}

static const char *setting(const char *name, const char *otherwise) {
  const char *found = getenv(name);
  return found ? found : otherwise;
}

// What the real one asks of the system, and does not begin without: a thread with a name, which it
// writes to /proc/self/task (from 570 on), 64 MiB of memory in a file, and an abstract socket that it
// hands descriptors out by.
static R asks(void) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, waits, NULL)) return 999;
  if (pthread_setname_np(thread, "cuda-EvtHandlr")) return OPERATING_SYSTEM;
  int memory = memfd_create("cuda", MFD_CLOEXEC);
  if (memory < 0 || ftruncate(memory, 64 << 20)) return OPERATING_SYSTEM;
  struct sockaddr_un name = {AF_UNIX};
  int length = snprintf(name.sun_path + 1, 90, "cuda-uvmfd-%d", getpid());
  int out = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  length += 1 + sizeof name.sun_family;
  if (out < 0 || bind(out, (struct sockaddr *)&name, length) || listen(out, 16)) return OPERATING_SYSTEM;
  return OK;
}

R cuInit(unsigned flags) {
  if (!strcmp(setting("STUB_GPUS", "1"), "0")) return NO_DEVICE;
  R code = begun ? OK : asks();
  begun = !code;
  return code;
}
R cuDriverGetVersion(int *v) { *v = 13000; return OK; }
R cuDeviceGetCount(int *n) { *n = atoi(setting("STUB_GPUS", "1")); return begun ? OK : NOT_INITIALIZED; }
R cuDeviceGet(int *device, int ordinal) { *device = ordinal; return begun ? OK : NOT_INITIALIZED; }
R cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Stub %d", device); return OK; }
R cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, 0x10 + device, 16); return OK; }
R cuDeviceGetPCIBusId(char *id, int size, int device) { snprintf(id, size, "0000:0%d:00.0", device); return OK; }
R cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = MOST; return OK; }
R cuDeviceGetAttribute(int *value, int which, int device) {
  switch (which) {
    case 75: *value = MAJOR; break; // compute capability, major
    case 76: *value = MINOR; break;
    case 16: *value = 132; break; // multiprocessors
    case 38: *value = 1 << 20; break;  // L2
    case 97: *value = 232448; break;   // shared memory
    case 13: *value = 1980000; break;  // kHz
    case 36: *value = 2619000; break;
    case 37: *value = 5120; break;
    case 32: *value = 1; break;
    default: *value = 0;
  }
  return OK;
}
R cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) { return OK; }
R cuDevicePrimaryCtxRetain(void **context, int device) { if (getenv("STUB_SHUT_OUT")) return 999; *context = &begun; return begun ? OK : NOT_INITIALIZED; }
R cuCtxSetCurrent(void *context) { return OK; }
R cuGetErrorName(R code, const char **text) { *text = "CUDA_ERROR"; return OK; }
R cuGetErrorString(R code, const char **text) {
  *text = code == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : "no words";
  return OK;
}

R cuMemAlloc_v2(uint64_t *address, size_t size) {
  ALIVE;
  if (!size) return INVALID_VALUE;
  if (size > MOST - used) return OOM;
  void *memory = aligned_alloc(256, (size + 255) / 256 * 256);
  if (!memory) return OOM;
  memset(memory, 0xff, size);
  for (int i = 0; i < 1000; ++i) if (!held[i].at) { held[i].at = memory; held[i].size = size; break; }
  used += size;
  *address = (uint64_t)memory;
  return OK;
}
R cuMemFree_v2(uint64_t address) {
  ALIVE;
  for (int i = 0; i < 1000; ++i)
    if (held[i].at == (void *)address) { used -= held[i].size; held[i].at = NULL; free((void *)address); return OK; }
  return INVALID_VALUE;
}
R cuMemHostAlloc(void **host, size_t size, unsigned flags) { ALIVE; *host = malloc(size); return OK; }
R cuMemsetD8Async(uint64_t to, unsigned char value, size_t size, void *stream) { ALIVE; memset((void *)to, value, size); return OK; }
R cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) { ALIVE; memcpy((void *)to, from, size); return OK; }
R cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) { ALIVE; memcpy(to, (void *)from, size); return OK; }
R cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, void *stream) { ALIVE; memcpy((void *)to, (void *)from, size); return OK; }

// A cubin, as ptxas writes it: code for one level, a section .text.NAME for each kernel, and
// .nv.info.NAME with an attribute (format 4, number 0x17) for each parameter. The file's size is not
// told here, as it is not to the real one.
static R cubin(Module **module, const char *image) {
  const Elf64_Ehdr *head = (const void *)image;
  const Elf64_Shdr *sections = (const void *)(image + head->e_shoff);
  const char *names = image + sections[head->e_shstrndx].sh_offset;
  int level = image[8] >= 8 ? head->e_flags >> 8 & 0xff : head->e_flags & 0xff;
  if (head->e_machine != 190) return INVALID_IMAGE;
  if (level / 10 != MAJOR || level % 10 > MINOR) return NO_BINARY_FOR_GPU;
  Module *made = calloc(1, sizeof *made);
  for (int i = 0; i < head->e_shnum; ++i) {
    const char *name = names + sections[i].sh_name;
    if (strncmp(name, ".text.", 6)) continue;
    Function *one = &made->functions[made->count++];
    snprintf(one->name, sizeof one->name, "%s", name + 6);
    for (int j = 0; j < head->e_shnum; ++j) {
      const char *other = names + sections[j].sh_name;
      if (strncmp(other, ".nv.info.", 9) || strcmp(other + 9, name + 6)) continue;
      const unsigned char *at = (const void *)(image + sections[j].sh_offset), *end = at + sections[j].sh_size;
      for (; at < end; at += at[0] == 4 ? 4 + (at[2] | at[3] << 8) : 4) one->parameters += at[0] == 4 && at[1] == 0x17;
    }
  }
  char line[64];
  snprintf(line, sizeof line, "cubin for sm_%d", level);
  say(line);
  *module = made;
  return OK;
}

R cuModuleLoadDataEx(void **module, const void *image, unsigned count, int *options, void **values) {
  ALIVE;
  const char *text = image;
  if (!memcmp(text, "\x7f" "ELF", 4)) return cubin((Module **)module, image);
  if (strncmp(text, "//", 2) && strncmp(text + (text[0] == '\n'), ".version", 8)) {
    for (unsigned i = 0; i < count; ++i)
      if (options[i] == 5) strcpy(values[i], "ptxas fatal: no\n  .version  here");
    return INVALID_PTX;
  }
  double version = 0;
  sscanf(strstr(text, ".version"), ".version %lf", &version);
  if (version > 9.0) return UNSUPPORTED_PTX_VERSION;  // CUDA 13.0 knows 9.0
  Module *made = calloc(1, sizeof *made);
  snprintf(made->text, sizeof made->text, "%s", text);
  for (char *at = made->text; (at = strstr(at, ".entry ")); ++at) {
    Function *one = &made->functions[made->count++];
    sscanf(at, ".entry %63[a-zA-Z0-9_$]", one->name);
    char *end = strchr(at, ')'), *next = at;
    while ((next = strstr(next + 1, ".param")) && next < end) ++one->parameters;
  }
  *module = made;
  return OK;
}
R cuModuleGetFunction(void **function, Module *module, const char *name) {
  ALIVE;
  for (int i = 0; i < module->count; ++i)
    if (!strcmp(module->functions[i].name, name)) { *function = &module->functions[i]; return OK; }
  return NOT_FOUND;
}
R cuFuncGetParamInfo(Function *function, size_t index, size_t *offset, size_t *size) {
  if (index >= (size_t)function->parameters) return INVALID_VALUE;
  *offset = 8 * index;
  if (size) *size = 8;
  return OK;
}
R cuFuncSetAttribute(Function *function, int which, int value) {
  ALIVE;
  if (which != 8 || value > 232448) return INVALID_VALUE;
  function->shared = value;
  return OK;
}

static void run(const Work *work) {
  const char *name = work->function->name;
  char line[256];
  int length = snprintf(line, sizeof line, "%s", name);
  for (int i = 0; i < 7; ++i) length += snprintf(line + length, sizeof line - length, " %u", work->sizes[i]);
  if (strcmp(name, "tunefarm_busy")) say(line);
  if (dead) return;
  float *x = (float *)work->values[0];
  if (!strcmp(name, "count")) ++*x;
  if (!strcmp(name, "add"))
    for (unsigned i = 0; i < work->sizes[3]; ++i)
      ((float *)work->values[2])[i] = x[i] + ((float *)work->values[1])[i];
  if (!strcmp(name, "walk")) {
    float sum = 0;
    for (int i = 1; i < 65536; i += 16) sum += x[i];
    *x = sum;
  }
  static int calls = 40;
  if (!strcmp(name, "remember")) *(int *)x = ++calls;
  if (!strcmp(name, "prints")) for (int i = 0; i < 48; ++i) printf("%065535d\n", i);
  fflush(stdout);
  if (!strcmp(name, "loop")) for (;;) pause();
  if (strstr("trap wild_write wild_read scribble misaligned wild_shared", name)) dead = ILLEGAL_ADDRESS;
}
R cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                 unsigned bz, unsigned shared, void *stream, void **parameters, void **extra) {
  ALIVE;
  if ((int)shared > function->shared) return INVALID_VALUE;
  if (!strcmp(function->name, "greedy")) return OUT_OF_RESOURCES;
  Work work = {function, {0}, {gx, gy, gz, bx, by, bz, shared}};
  for (int i = 0; i < function->parameters; ++i) work.values[i] = *(uint64_t *)parameters[i];
  if (capturing) capturing->work[capturing->count++] = work;
  else run(&work);
  return OK;
}

R cuStreamCreate(void **stream, unsigned flags) { ALIVE; *stream = &used; return flags == 1 ? OK : INVALID_VALUE; }
R cuStreamBeginCapture_v2(void *stream, int mode) { ALIVE; capturing = calloc(1, sizeof *capturing); return OK; }
R cuStreamEndCapture(void *stream, void **graph) { *graph = capturing; capturing = NULL; return OK; }
R cuGraphInstantiateWithFlags(void **made, Graph *graph, unsigned long long flags) {
  ALIVE;
  *made = memcpy(malloc(sizeof *graph), graph, sizeof *graph);
  return OK;
}
R cuGraphUpload(void *graph, void *stream) { ALIVE; return OK; }
R cuGraphLaunch(Graph *graph, void *stream) {
  ALIVE;
  char line[64];
  snprintf(line, sizeof line, "graph of %d", graph->count);
  say(line);
  for (int i = 0; i < graph->count; ++i) run(&graph->work[i]);
  return OK;
}
R cuGraphExecDestroy(Graph *graph) { say("graph dropped"); free(graph); return OK; }
R cuGraphDestroy(Graph *graph) { free(graph); return OK; }
R cuEventCreate(void **event, unsigned flags) { ALIVE; *event = calloc(1, sizeof(Event)); return OK; }
R cuEventRecord(Event *event, void *stream) {
  ALIVE;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  event->at = now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
  return OK;
}
R cuEventSynchronize(Event *event) { ALIVE; return OK; }
R cuEventElapsedTime_v2(float *ms, Event *start, Event *end) { ALIVE; *ms = end->at - start->at; return OK; }
R cuEventElapsedTime(float *ms, Event *start, Event *end) { return cuEventElapsedTime_v2(ms, start, end); }

static R found(const char *name, void **function) {
  char versioned[128];
  const char *suffixes[] = {"_v2", "", "WithFlags"};
  for (int i = 0; i < 3; ++i) {
    snprintf(versioned, sizeof versioned, "%s%s", name, suffixes[i]);
    if ((*function = dlsym(RTLD_DEFAULT, versioned)) || (*function = dlsym(dlopen("libcuda.so.1", RTLD_NOW), versioned)))
      return OK;
  }
  return NOT_FOUND;
}
R cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
  R code = found(name, function);
  if (status) *status = code ? 1 : 0;
  return code;
}
R cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) { return found(name, function); }

// NVML.
R nvmlInitWithFlags(unsigned flags) { return OK; }
R nvmlInit_v2(void) { return OK; }
R nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(R code) { return "no words"; }
R nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "580.1"); return OK; }
R nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
  static char own[64];
  if (strncmp(uuid, "GPU-", 4)) return 6;
  snprintf(own, sizeof own, "%s", uuid);
  *handle = own;
  return OK;
}
static int reading(const char *name) { return atoi(setting(name, "0")); }
R nvmlDeviceGetClockInfo(void *gpu, unsigned which, unsigned *mhz) { *mhz = which == 1 ? 1755 : 2619; return OK; }
R nvmlDeviceGetMaxClockInfo(void *gpu, unsigned which, unsigned *mhz) { *mhz = which == 1 ? 1980 : 2619; return OK; }
R nvmlDeviceGetTemperature(void *gpu, int which, unsigned *celsius) { *celsius = 51; return OK; }
R nvmlDeviceGetPowerUsage(void *gpu, unsigned *mw) { *mw = 123400; return OK; }
R nvmlDeviceGetEnforcedPowerLimit(void *gpu, unsigned *mw) { *mw = 350000; return OK; }
R nvmlDeviceGetMigMode(void *gpu, unsigned *now, unsigned *later) { *now = *later = 0; return OK; }
R nvmlDeviceGetPersistenceMode(void *gpu, int *mode) { *mode = 1; return OK; }
R nvmlDeviceGetCurrentClocksEventReasons(void *gpu, unsigned long long *bits) { *bits = reading("STUB_REASONS"); return OK; }
R nvmlDeviceGetMemoryInfo(void *gpu, unsigned long long *told) { told[0] = MOST; told[1] = MOST - 1; told[2] = 1; return OK; }
R nvmlDeviceGetViolationStatus(void *gpu, int policy, unsigned long long *told) {
  static unsigned long long thermal;
  told[0] = 1;
  told[1] = policy == 1 && reading("STUB_HOT") ? ++thermal : 0;
  return policy < 2 ? OK : 3;
}
