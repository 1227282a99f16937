"""The threads of a kernel: a small pool in its library's own text, on pthreads and futexes.

`deal` is called with a body and a number of blocks. It posts a job to as many workers as there are
processors for, takes blocks itself, and returns when all are done; a worker that has not begun by
then loses its job, so nobody is waited for in vain. Workers spin for a moment, then sleep, and end
after two idle seconds; a thread that cannot be started is one fewer.

A slot's state: 0 no thread, 1 idle, 2 a job is posted, 3 asleep, 4 at work, 5 at work and awaited.

Whoever loads the library may say which processors to use: `tunefarm_cores` is their number, then
for each thread, the caller's first, the processor's number plus one, or 0 for any. Unless it says
so, threads are not bound, and there are as many as the caller may run on.
"""

from string import Template

from tunefarm_compiler.targets import TargetSpec

MOST_THREADS = 64
DEAL = "@threads.deal"  # (body, blocks, threads): the one function that kernels call
# Numbers of futex, sched_setaffinity, sched_getaffinity.
_CALLS = {
    "x86_64": (202, 203, 204),
    "aarch64": (98, 122, 123),
    "armv7": (240, 241, 242),
    "riscv64": (98, 122, 123),
}
_PAUSE = {
    "x86_64": "call void @llvm.x86.sse2.pause()",
    "aarch64": "call void @llvm.aarch64.hint(i32 1)",
    "armv7": "call void @llvm.arm.hint(i32 1)",
}
# About a tenth of a millisecond: to be woken takes half as long on a virtual machine.
_SPINS = {"x86_64": 8000}
_OTHER_SPINS = 50000
STACK_BYTES = 1 << 20  # a tile of 256 vectors of 64 lanes that spills takes 180 KiB
NEEDED = frozenset((
    "pthread_attr_init", "pthread_attr_setdetachstate", "pthread_attr_setstacksize",
    "pthread_create", "syscall",
))  # fmt: skip

_TEXT = Template("""
%threads.job = type { ptr, $index, $index }
@tunefarm_cores = global [65 x i32] zeroinitializer, align 64
@threads.slots = hidden global [64 x [16 x i32]] zeroinitializer, align 64
@threads.next = hidden global [16 x i64] zeroinitializer, align 64
@threads.job = hidden global %threads.job zeroinitializer, align 64
@threads.counted = hidden global i32 0
@threads.patience = hidden constant [2 x $index] [$index 2, $index 0]
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setdetachstate(ptr, i32)
declare i32 @pthread_attr_setstacksize(ptr, $index)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare $index @syscall($index, ...)

define hidden i32 @threads.cores() #0 {
entry:
  %told = load i32, ptr @tunefarm_cores
  %counted = load i32, ptr @threads.counted
  %known = or i32 %told, %counted
  %any = icmp ne i32 %known, 0
  br i1 %any, label %done, label %count
count:
  %mask = alloca <16 x i64>
  store <16 x i64> zeroinitializer, ptr %mask
  %got = call $index ($index, ...) @syscall($index $getaffinity, $index 0, $index 128, ptr %mask)
  %bits = load <16 x i64>, ptr %mask
  %ones = call <16 x i64> @llvm.ctpop.v16i64(<16 x i64> %bits)
  %sum = call i64 @llvm.vector.reduce.add.v16i64(<16 x i64> %ones)
  %short = trunc i64 %sum to i32
  %found = call i32 @llvm.umax.i32(i32 %short, i32 1)
  store i32 %found, ptr @threads.counted
  br label %done
done:
  %fresh = phi i32 [ 0, %entry ], [ %found, %count ]
  %own = or i32 %counted, %fresh
  %use = icmp ne i32 %told, 0
  %cores = select i1 %use, i32 %told, i32 %own
  ret i32 %cores
}

define hidden void @threads.wake(ptr %slot) #0 {
  call $index ($index, ...) @syscall($index $futex, ptr %slot, $index 129, $index 1)
  ret void
}

define hidden void @threads.share(i32 %worker) #0 {
entry:
  %number = $widen
  %body = load ptr, ptr @threads.job
  %blocks = load $index, ptr getelementptr (%threads.job, ptr @threads.job, i32 0, i32 1)
  %parts = load $index, ptr getelementptr (%threads.job, ptr @threads.job, i32 0, i32 2)
  br label %look
look:
  %first = load atomic $index, ptr @threads.next monotonic, align $bytes
  %left = sub $index %blocks, %first
  %any = icmp sgt $index %left, 0
  br i1 %any, label %take, label %done
take:
  %part = udiv $index %left, %parts
  %size = call $index @llvm.umax.$index($index %part, $index 1)
  %stop = add $index %first, %size
  %pair = cmpxchg ptr @threads.next, $index %first, $index %stop monotonic monotonic
  %won = extractvalue { $index, i1 } %pair, 1
  br i1 %won, label %do, label %look
do:
  call void %body($index %first, $index %stop, $index %number)
  br label %look
done:
  ret void
}

define hidden i32 @threads.bind(i32 %worker, i32 %before) #0 {
entry:
  %place = add i32 %worker, 1
  %where = getelementptr i32, ptr @tunefarm_cores, i32 %place
  %core = load i32, ptr %where
  %same = icmp eq i32 %core, %before
  %free = icmp eq i32 %core, 0
  %stay = or i1 %same, %free
  br i1 %stay, label %done, label %move
move:
  %mask = alloca <16 x i64>
  store <16 x i64> zeroinitializer, ptr %mask
  call void @threads.add(ptr %mask, i32 %core)
  call $index ($index, ...) @syscall($index $setaffinity, $index 0, $index 128, ptr %mask)
  br label %done
done:
  ret i32 %core
}

define hidden void @threads.add(ptr %mask, i32 %core) #0 {
  %cpu = sub i32 %core, 1
  %byte = lshr i32 %cpu, 3
  %bit = and i32 %cpu, 7
  %wide = shl i32 1, %bit
  %one = trunc i32 %wide to i8
  %at = getelementptr i8, ptr %mask, i32 %byte
  %before = load i8, ptr %at
  %after = or i8 %before, %one
  store i8 %after, ptr %at
  ret void
}

define hidden ptr @threads.worker(ptr %slot) #0 {
entry:
  %holder = getelementptr i32, ptr %slot, i32 1
  %worker = load i32, ptr %holder
  br label %idle
idle:
  %bound = phi i32 [ 0, %entry ], [ %bound, %begin ], [ %core, %work ], [ %core, %call ]
  br label %spin
spin:
  %n = phi i32 [ 0, %idle ], [ %m, %again ]
  %state = load atomic i32, ptr %slot acquire, align 4
  %posted = icmp eq i32 %state, 2
  br i1 %posted, label %begin, label %again
again:
  $pause
  %m = add i32 %n, 1
  %more = icmp ult i32 %m, $spins
  br i1 %more, label %spin, label %nap
nap:
  %napping = cmpxchg ptr %slot, i32 1, i32 3 acq_rel acquire
  %asleep = extractvalue { i32, i1 } %napping, 1
  br i1 %asleep, label %sleep, label %begin
sleep:
  call $index ($index, ...) @syscall($index $futex, ptr %slot, $index 128, $index 3,
    ptr @threads.patience)
  %leaving = cmpxchg ptr %slot, i32 3, i32 0 acq_rel acquire
  %left = extractvalue { i32, i1 } %leaving, 1
  br i1 %left, label %leave, label %begin
leave:
  ret ptr null
begin:
  %taking = cmpxchg ptr %slot, i32 2, i32 4 acq_rel acquire
  %taken = extractvalue { i32, i1 } %taking, 1
  br i1 %taken, label %work, label %idle
work:
  %core = call i32 @threads.bind(i32 %worker, i32 %bound)
  call void @threads.share(i32 %worker)
  %was = atomicrmw xchg ptr %slot, i32 1 acq_rel
  %awaited = icmp eq i32 %was, 5
  br i1 %awaited, label %call, label %idle
call:
  call void @threads.wake(ptr %slot)
  br label %idle
}

define hidden void @threads.post(ptr %slot, i32 %worker) #0 {
entry:
  %was = atomicrmw xchg ptr %slot, i32 2 acq_rel
  switch i32 %was, label %done [ i32 0, label %start  i32 3, label %wake ]
start:
  %holder = getelementptr i32, ptr %slot, i32 1
  store i32 %worker, ptr %holder
  %how = alloca [128 x i8], align 16
  %thread = alloca i64
  call i32 @pthread_attr_init(ptr %how)
  call i32 @pthread_attr_setdetachstate(ptr %how, i32 1)
  call i32 @pthread_attr_setstacksize(ptr %how, $index $stack)
  %place = add i32 %worker, 1
  %where = getelementptr i32, ptr @tunefarm_cores, i32 %place
  %core = load i32, ptr %where
  %free = icmp eq i32 %core, 0
  br i1 %free, label %create, label %widen
widen:                                            ; or it waits where its creator is busy
  %kept = alloca <16 x i64>
  %mask = alloca <16 x i64>
  store <16 x i64> zeroinitializer, ptr %kept
  call $index ($index, ...) @syscall($index $getaffinity, $index 0, $index 128, ptr %kept)
  %own = load <16 x i64>, ptr %kept
  store <16 x i64> %own, ptr %mask
  call void @threads.add(ptr %mask, i32 %core)
  call $index ($index, ...) @syscall($index $setaffinity, $index 0, $index 128, ptr %mask)
  br label %create
create:
  %saved = phi ptr [ null, %start ], [ %kept, %widen ]
  %failed = call i32 @pthread_create(ptr %thread, ptr %how, ptr @threads.worker, ptr %slot)
  br i1 %free, label %created, label %narrow
narrow:
  call $index ($index, ...) @syscall($index $setaffinity, $index 0, $index 128, ptr %saved)
  br label %created
created:
  %bad = icmp ne i32 %failed, 0
  br i1 %bad, label %without, label %done
without:
  store atomic i32 0, ptr %slot release, align 4
  br label %done
wake:
  call void @threads.wake(ptr %slot)
  br label %done
done:
  ret void
}

define hidden void @threads.finish(ptr %slot) #0 {
entry:
  %taking = cmpxchg ptr %slot, i32 2, i32 1 acq_rel acquire
  %taken = extractvalue { i32, i1 } %taking, 1
  br i1 %taken, label %done, label %spin
spin:
  %n = phi i32 [ 0, %entry ], [ %m, %again ]
  %state = load atomic i32, ptr %slot acquire, align 4
  %working = icmp uge i32 %state, 4
  br i1 %working, label %again, label %done
again:
  $pause
  %m = add i32 %n, 1
  %more = icmp ult i32 %m, $spins
  br i1 %more, label %spin, label %await
await:
  %telling = cmpxchg ptr %slot, i32 4, i32 5 acq_rel acquire
  %now = extractvalue { i32, i1 } %telling, 0
  %ended = icmp ult i32 %now, 4
  br i1 %ended, label %done, label %sleep
sleep:
  call $index ($index, ...) @syscall($index $futex, ptr %slot, $index 128, $index 5, ptr null)
  br label %await
done:
  ret void
}

define hidden void @threads.deal(ptr %body, $index %blocks, i32 %threads) #0 {
entry:
  %cores = call i32 @threads.cores()
  %few = call i32 @llvm.umin.i32(i32 %threads, i32 %cores)
  %most = call $index @llvm.umin.$index($index %blocks, $index 64)
  %short = $narrow
  %workers = call i32 @llvm.umin.i32(i32 %few, i32 %short)
  %twice = shl i32 %workers, 1
  %parts = $parts
  store ptr %body, ptr @threads.job
  store $index %blocks, ptr getelementptr (%threads.job, ptr @threads.job, i32 0, i32 1)
  store $index %parts, ptr getelementptr (%threads.job, ptr @threads.job, i32 0, i32 2)
  store atomic $index 0, ptr @threads.next monotonic, align $bytes
  %alone = icmp ult i32 %workers, 2
  br i1 %alone, label %own, label %post
post:
  %w = phi i32 [ 1, %entry ], [ %w.next, %post ]
  %to = getelementptr [16 x i32], ptr @threads.slots, i32 %w
  call void @threads.post(ptr %to, i32 %w)
  %w.next = add i32 %w, 1
  %w.more = icmp ult i32 %w.next, %workers
  br i1 %w.more, label %post, label %own
own:
  call void @threads.share(i32 0)
  br i1 %alone, label %done, label %finish
finish:
  %f = phi i32 [ 1, %own ], [ %f.next, %finish ]
  %of = getelementptr [16 x i32], ptr @threads.slots, i32 %f
  call void @threads.finish(ptr %of)
  %f.next = add i32 %f, 1
  %f.more = icmp ult i32 %f.next, %workers
  br i1 %f.more, label %finish, label %done
done:
  ret void
}
""")


def runtime(spec: TargetSpec) -> str:
    """LLVM text of the pool, for a processor that has threads."""
    futex, setaffinity, getaffinity = _CALLS[spec.arch]
    wide = spec.index == "i64"
    return _TEXT.substitute(
        index=spec.index,
        bytes=8 if wide else 4,
        stack=STACK_BYTES,
        futex=futex,
        setaffinity=setaffinity,
        getaffinity=getaffinity,
        pause=_PAUSE.get(spec.arch, ""),
        spins=_SPINS.get(spec.arch, _OTHER_SPINS),
        widen="zext i32 %worker to i64" if wide else "add i32 %worker, 0",
        narrow="trunc i64 %most to i32" if wide else "add i32 %most, 0",
        parts="zext i32 %twice to i64" if wide else "add i32 %twice, 0",
    )
