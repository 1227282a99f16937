"""The anchors: timed while nobody has the device, told to the tracker, kept once."""

from device_harness import DeviceProcess, FakeTracker, eventually
from tunefarm_tracker import convert


def test_readings_are_told_and_told_again_on_the_next_stream(tmp_path):
    tracker = FakeTracker()
    device = DeviceProcess(tracker.address, tmp_path / "state", "--anchor-interval", "0.5")
    try:
        report = tracker.wait(lambda report: len(report.anchors) == 2)
        assert [one.name for one in report.anchors] == ["compute", "memory"]
        for reading in report.anchors:
            assert len(reading.timing.samples_s) == 15 and min(reading.timing.samples_s) > 0
            assert reading.timing.median_low_s <= reading.timing.median_high_s
        moved = [one.moved_bytes for one in report.anchors]
        assert moved[0] == 0 and moved[1] >= 2**20
        result = convert.anchor_result(report, report.anchors[0])
        assert result.workload == "anchor compute" and result.device_id == report.device_id
        assert convert.anchor_result(report, report.anchors[0]).id == result.id
        assert convert.anchor_result(report, report.anchors[1]).id != result.id
    finally:
        device.kill()
        tracker.stop()


def test_no_reading_while_somebody_has_the_device(own_box, kernels):
    own_box.device.kill()
    own_box.tracker.want("mine")
    device = DeviceProcess(
        own_box.tracker.address, own_box.device.state, "--anchor-interval", "0.2"
    )
    try:
        own_box.tracker.wait(lambda report: report.lease_id == "mine")
        begun = len(own_box.tracker.reports)
        own_box.tracker.wait(lambda report: len(own_box.tracker.reports) > begun + 10)
        reports = own_box.tracker.reports[begun:]
        # One that had begun before the lease did may be told in it.
        assert sum(bool(report.anchors) for report in reports) <= 1
        own_box.end()
        eventually(lambda: any(report.anchors for report in own_box.tracker.reports[-5:]))
    finally:
        device.kill()
