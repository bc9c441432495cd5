from __future__ import annotations

import ctypes
import threading

import pytest

from preflight.adapters.tensorrt.cuda import CudaError, CudaSession, NoDeviceError, open_device


def test_the_device_is_described(cuda):
    device = open_device(cuda.path)
    assert (device.name, device.sm) == ("Orin (nvgpu)", "87")
    cuda.major, cuda.minor = 12, 0
    assert open_device(cuda.path).sm == "120"


def test_no_driver_no_start_no_device(cuda, tmp_path):
    with pytest.raises(NoDeviceError, match="does not load"):
        open_device(str(tmp_path / "libcuda.so.1"))
    cuda.init = 100
    with pytest.raises(NoDeviceError, match="no CUDA-capable device is detected"):
        open_device(cuda.path)
    cuda.init, cuda.devices = 0, 0
    with pytest.raises(NoDeviceError, match="sees no device"):
        open_device(cuda.path)


def test_a_library_that_is_no_driver_is_no_device(tmp_path, compile_library):
    source = tmp_path / "other.c"
    source.write_text("int other(void) { return 0; }")
    with pytest.raises(NoDeviceError, match="does not load"):
        open_device(str(compile_library(source, tmp_path / "libother.so")))


def test_bytes_go_there_and_back(cuda):
    session = CudaSession(open_device(cuda.path))
    sent, back = bytes(range(200)), ctypes.create_string_buffer(200)
    address = session.allocate(200)
    assert address % 256 == 0
    session.upload(address, ctypes.cast(sent, ctypes.c_void_p).value, 200)
    session.download(ctypes.addressof(back), address, 200)
    session.synchronize()
    assert back.raw == sent
    assert session.stream != 0
    assert cuda.held == (1, 1, 1)
    session.free(address)
    assert cuda.held == (1, 1, 0)
    session.close()
    session.close()


def test_empty_memory_is_an_address_and_copies_nothing(cuda):
    session = CudaSession(open_device(cuda.path))
    address = session.allocate(0)
    session.upload(address, 0, 0)
    session.download(0, address, 0)
    session.close()


def test_a_failure_carries_the_call_its_words_and_whether_memory_ran_out(cuda):
    session = CudaSession(open_device(cuda.path))
    with pytest.raises(CudaError, match=r"cuMemAlloc_v2: out of memory \(CUDA error 2\)") as caught:
        session.allocate(1 << 30)
    assert caught.value.out_of_memory
    cuda.synchronize = 700
    with pytest.raises(CudaError, match="700") as caught:
        session.synchronize()
    assert not caught.value.out_of_memory
    cuda.synchronize = 0
    session.close()


def test_a_context_is_current_for_one_thread(cuda):
    session = CudaSession(open_device(cuda.path))
    outcomes = []

    def work():
        try:
            session.allocate(8)
        except CudaError as error:
            outcomes.append(str(error))
        session.use()
        session.free(session.allocate(8))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(outcomes) == 1
    assert "201" in outcomes[0]
    session.close()


def test_a_session_that_does_not_open_leaves_nothing(cuda):
    cuda.stream_create = 2
    with pytest.raises(CudaError, match="cuStreamCreate"):
        CudaSession(open_device(cuda.path))
    assert cuda.held == (0, 0, 0)
