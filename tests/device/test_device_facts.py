"""What a device finds out about itself, and what it runs on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from device_harness import DeviceProcess, FakeTracker
from tunefarm_device import facts, processors
from tunefarm_device.conditions import ConditionsReader
from tunefarm_device.processes import describe_status

AVX2 = "fpu cx16 popcnt lahf_lm pni sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
AVX512 = AVX2 + " avx512bw avx512cd avx512dq avx512f avx512vl"


@pytest.mark.parametrize(
    ("vendor", "family", "model", "flags", "cpu"),
    [
        ("AuthenticAMD", 0x19, 17, AVX512, "znver4"),
        ("AuthenticAMD", 0x19, 17, AVX2, "x86-64-v3"),  # a hypervisor hides AVX-512
        ("AuthenticAMD", 0x19, 0x21, AVX2, "znver3"),
        ("AuthenticAMD", 0x17, 0x31, AVX2, "znver2"),
        ("GenuineIntel", 6, 0x55, AVX512, "skylake-avx512"),
        ("GenuineIntel", 6, 0x55, AVX512 + " avx512_vnni", "cascadelake"),
        ("GenuineIntel", 6, 0x8F, AVX512, "sapphirerapids"),
        ("GenuineIntel", 6, 0x3C, AVX2, "haswell"),
        ("CentaurHauls", 7, 0x1B, AVX512, "x86-64-v4"),
        ("CentaurHauls", 7, 0x1B, "sse2", "x86-64"),
    ],
)
def test_x86_processors(vendor, family, model, flags, cpu):
    features = processors.x86_features(frozenset(flags.split()))
    assert processors.x86_cpu(vendor, family, model, features) == cpu


def test_features_have_llvm_names():
    named = processors.x86_features(
        frozenset(("pni", "avx512_vnni", "avx512_bf16", "abm", "sse4_2", "ht"))
    )
    assert named == {"sse3", "avx512vnni", "avx512bf16", "lzcnt", "sse4.2", "crc32"}
    bits = 1 << 0 | 1 << 1 | 1 << 7 | 1 << 10 | 1 << 20
    arm = processors.hwcap_features("aarch64", bits, 0)
    assert arm == {"fp-armv8", "neon", "crc", "fullfp16", "dotprod"}
    old = processors.hwcap_features("armv7", 1 << 12 | 1 << 13 | 1 << 16 | 1 << 19, 1 << 4)
    assert {"neon", "vfp3", "vfp4", "d32", "crc"} <= old
    assert processors.hwcap_features("riscv64", 0x112D, 0) == {"a", "c", "d", "f", "m"}


@pytest.mark.parametrize(("part", "cpu"), [("0xd03", "cortex-a53"), ("0xd08", "cortex-a72")])
def test_arm_processors(part, cpu):
    text = f"processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\nCPU part\t: 0xd0b\n"
    assert processors.arm_cpu(facts.first_processor(text)) == cpu


@pytest.mark.parametrize(
    ("machine", "pointer", "arch"),
    [
        ("aarch64", 8, "aarch64"),
        ("aarch64", 4, "armv7"),
        ("armv8l", 4, "armv7"),
        ("armv7l", 4, "armv7"),
        ("x86_64", 8, "x86_64"),
        ("riscv64", 8, "riscv64"),
    ],
)
def test_architectures(machine, pointer, arch):
    assert facts.architecture(machine, pointer) == arch


def test_emulation_is_found(tmp_path):
    comm = tmp_path / "proc/self/comm"
    comm.parent.mkdir(parents=True)
    comm.write_text("python3\n")
    assert facts.find_emulator("aarch64", {"vendor_id": "AuthenticAMD"}, tmp_path) == "qemu-user"
    assert facts.find_emulator("aarch64", {"CPU part": "0xd03"}, tmp_path) == ""
    assert facts.find_emulator("x86_64", {"vendor_id": "AuthenticAMD"}, tmp_path) == ""
    comm.write_text("qemu-aarch64-st\n")
    assert facts.find_emulator("aarch64", {"CPU part": "0xd03"}, tmp_path) == "qemu-user"


def test_emulation_may_be_stated(monkeypatch):
    monkeypatch.setenv("TUNEFARM_EMULATED", "qemu-user")
    monkeypatch.setenv("TUNEFARM_CPU", "cortex-a53")
    found = facts.find_facts()
    assert (found.emulated, found.emulator, found.target.cpu) == (True, "qemu-user", "cortex-a53")


def test_conditions_of_a_board(tmp_path):
    def put(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    put("sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq", "1400000\n")
    put("sys/class/thermal/thermal_zone0/temp", "48312\n")
    put("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    put("proc/loadavg", "0.25 0.1 0.1 1/100 99\n")
    put("proc/stat", "cpu 10 0 10 70 0 0 0 10 0 0\n")
    reader = ConditionsReader(2, tmp_path)
    assert not reader.read().HasField("steal_fraction")
    put("proc/stat", "cpu 20 0 20 130 0 0 0 30 0 0\n")
    now = reader.read()
    assert now.frequency_hz == 1_400_000_000
    assert now.temperature_celsius == pytest.approx(48.312)
    assert now.throttle_bits == 0x50005
    assert now.load_average == 0.25
    assert now.steal_fraction == pytest.approx(0.2)


def test_conditions_that_a_machine_lacks_are_absent(tmp_path):
    now = ConditionsReader(0, tmp_path).read()
    assert [field.name for field, _ in now.ListFields()] == ["read_at"]


def test_the_end_of_a_process_in_words():
    assert describe_status(11) == "by signal 11 (SIGSEGV)"
    assert describe_status(3 << 8) == "with exit status 3"


def test_it_needs_the_base_install_alone():
    blocked = ("numpy", "llvmlite", "fastapi", "ziglang", "tunefarm", "tunefarm_compiler")
    script = f"""
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
import asyncio, tempfile
from tunefarm_device import building, server
async def run():
    with tempfile.TemporaryDirectory() as folder:
        options = building.Options(state_dir=folder)
        running = await server.start("bare", "127.0.0.1:9", options=options)
        (device,) = running.devices
        runner = await device.bench.host.spawn()
        await runner.request({{"do": "allocate", "array": 1, "size": 64}}, limit_s=10)
        await running.stop()
        print(device.device_id)
asyncio.run(run())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bare-")


def test_the_zygote_knows_nothing_of_ours():
    for name in ("zygote.py", "runner.py"):
        text = Path(processors.__file__).with_name(name).read_text()
        assert "grpc" not in text and "import tunefarm" not in text


def test_the_processor_is_that_of_its_own_cores(tmp_path):
    (tmp_path / "proc").mkdir()
    blocks = [
        f"processor\t: {cpu}\nCPU implementer\t: 0x41\nCPU part\t: {part}\nmodel name\t: {name}\n"
        for cpu, (part, name) in enumerate([("0xd03", "little")] * 2 + [("0xd08", "big")] * 2)
    ]
    (tmp_path / "proc/cpuinfo").write_text("\n".join(blocks) + "\nHardware\t: board\n")
    for cpu, speed in ((0, 1_000_000), (2, 2_000_000)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(str(speed))
    found = facts.find_facts(cores={2, 3}, root=tmp_path)
    assert found.cpu_model.endswith("big") and found.max_frequency_hz == 2_000_000_000
    assert (found.cores, found.cpu_count) == ("2-3", 2)
    found = facts.find_facts(root=tmp_path)
    assert found.cpu_model.endswith("little") and found.max_frequency_hz == 1_000_000_000
    assert (found.cores, found.cpu_count) == ("", len(os.sched_getaffinity(0)))


def test_what_steadies_timings_is_a_fact(tmp_path):
    tracker = FakeTracker()
    words = ("--nice", "3", "--anchor-interval", "0")
    device = DeviceProcess(tracker.address, tmp_path / "fixed", *words)
    other = None
    try:
        steadied = set(tracker.wait(lambda report: report.HasField("facts")).facts.steadied)
        assert "nice 3" in steadied
        zygote = device.zygote()
        assert os.getpriority(os.PRIO_PROCESS, zygote) == 3
        fixed = int(Path(f"/proc/{zygote}/personality").read_text(), 16) & 0x0040000
        assert bool(fixed) == ("fixed-addresses" in steadied)
        device.kill()
        tracker.reports.clear()
        other = DeviceProcess(tracker.address, tmp_path / "random", "--random-addresses")
        facts = tracker.wait(lambda report: report.HasField("facts")).facts
        assert not {"fixed-addresses", "nice 3"} & set(facts.steadied)
    finally:
        for one in (device, other):
            if one is not None:
                one.kill()
        tracker.stop()
