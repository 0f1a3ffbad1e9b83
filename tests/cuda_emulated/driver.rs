//! What the driver can answer: every refusal is an error that says what is missing, and memory is taken once.

use crate::emulator::{Counter, Emulator, Setting, random};
use actpatch::backend::cuda::device_count;
use actpatch::backend::{Backend, BackendError, CudaBackend, Dtype, Epilogue};
use actpatch::types::Matrix;
use cudarc::driver::CudaContext;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

fn error(index: usize) -> BackendError {
    CudaBackend::new(index, Dtype::F32).expect_err("must not open")
}

#[test]
fn a_gpu_that_cannot_be_used_is_an_error() {
    let Some(emulator) = Emulator::alone() else { return };
    assert_eq!(device_count().unwrap(), 1);
    assert!(matches!(error(7), BackendError::NoSuchDevice { index: 7, count: 1 }));
    emulator.set(Setting::Devices, 0);
    assert_eq!(device_count().unwrap(), 0);
    assert!(matches!(error(0), BackendError::NoSuchDevice { index: 0, count: 0 }));
    emulator.set(Setting::Devices, 1);
    emulator.set(Setting::Capability, 75);
    let message = error(0).to_string();
    assert!(message.contains("7.5") && message.contains("8.0"), "{message}");
    emulator.set(Setting::Capability, 80);
    emulator.set(Setting::RefusePtx, 1);
    let message = error(0).to_string();
    assert!(message.contains("too old") && message.contains("12.2"), "{message}");
    emulator.set(Setting::RefusePtx, 0);
    emulator.set(Setting::Version, 11_020);
    let message = error(0).to_string();
    assert!(message.contains("too old") && message.contains("11.2") && message.contains("11.4"), "{message}");
    emulator.set(Setting::Version, 12_020);
    assert!(emulator.backend(Dtype::F32).describe().starts_with("cuda:0 (emulator, compute capability 8.0, f32"));
}

#[test]
fn a_full_memory_is_an_error_that_names_the_bytes_and_free_arrays_are_given_back_first() {
    let Some(emulator) = Emulator::alone() else { return };
    let backend = emulator.backend(Dtype::F32);
    emulator.set(Setting::Memory, 1 << 20);
    let message = backend.tensor(1 << 20).unwrap_err().to_string();
    assert!(message.contains(&(4usize << 20).to_string()), "{message}");
    // Two arrays of different classes, each of which only fits alone: also where the driver keeps what is freed.
    for keeps_freed in [0, 1] {
        emulator.set(Setting::KeepsFreed, keeps_freed);
        drop(backend.tensor(200_000).unwrap());
        drop(backend.tensor(150_000).unwrap());
        assert_eq!(backend.download(&backend.upload(&[1.5; 10]).unwrap()).unwrap(), [1.5; 10]);
    }
}

#[test]
fn a_launch_that_fails_names_the_kernel() {
    let Some(emulator) = Emulator::alone() else { return };
    let backend = emulator.backend(Dtype::F32);
    let (x, mut y) = (backend.upload(&[1.0; 4]).unwrap(), backend.upload(&[1.0; 4]).unwrap());
    emulator.set(Setting::FailLaunch, 1);
    let message = backend.add(&x, &mut y).unwrap_err().to_string();
    assert!(message.contains("add_values") && message.contains("LAUNCH_OUT_OF_RESOURCES"), "{message}");
}

#[test]
fn a_gpu_that_is_lost_says_so_from_then_on() {
    let Some(emulator) = Emulator::alone() else { return };
    let backend = emulator.backend(Dtype::F32);
    let (x, mut y) = (backend.upload(&[1.0; 4]).unwrap(), backend.upload(&[1.0; 4]).unwrap());
    emulator.set(Setting::LaunchesLeft, 2);
    backend.add(&x, &mut y).unwrap();
    backend.add(&x, &mut y).unwrap();
    let lost = |result: Result<(), BackendError>| {
        let error = result.expect_err("the GPU is lost");
        assert!(matches!(error, BackendError::Lost { .. }), "{error:?}");
        error.to_string()
    };
    let message = lost(backend.add(&x, &mut y));
    assert!(message.contains("add_values") && message.contains("CUDA_ERROR_LAUNCH_FAILED"), "{message}");
    lost(backend.download(&y).map(drop));
    lost(backend.upload(&[1.0; 4]).map(drop));
    lost(backend.tensor(100_000).map(drop));
}

/// As on hardware: launches are only asked for, and what went wrong is known to who waits.
#[test]
fn a_gpu_that_is_lost_unseen_says_so_where_the_host_waits() {
    let Some(emulator) = Emulator::alone() else { return };
    let backend = emulator.backend(Dtype::F32);
    let (x, mut y) = (backend.upload(&[1.0; 4]).unwrap(), backend.upload(&[1.0; 4]).unwrap());
    emulator.set(Setting::Late, 1);
    emulator.set(Setting::LaunchesLeft, 1);
    for _ in 0..3 {
        backend.add(&x, &mut y).unwrap();
    }
    let lost = |result: Result<(), BackendError>| {
        let error = result.expect_err("the GPU is lost");
        assert!(matches!(error, BackendError::Lost { .. }), "{error:?}");
    };
    lost(backend.download(&y).map(drop));
    lost(backend.add(&x, &mut y));
}

/// A captured stream may not wait for what happened before: the backend's arrays must have no events of their own.
#[test]
fn a_capture_that_waits_for_what_was_before_it_is_refused() {
    let Some(_emulator) = Emulator::alone() else { return };
    for (tracked, refused) in [(true, true), (false, false)] {
        let context = CudaContext::new(0).unwrap();
        if !tracked {
            // SAFETY: nothing has been allocated, and one stream does everything.
            unsafe { context.disable_event_tracking() };
        }
        let stream = context.new_stream().unwrap();
        let from = stream.clone_htod(&[1.0f32; 64]).unwrap();
        let mut to = stream.alloc_zeros::<f32>(64).unwrap();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let copied = stream.memcpy_dtod(&from, &mut to);
        let isolated = context.check_err().is_err() || copied.is_err();
        stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();
        assert_eq!(isolated, refused, "event tracking: {tracked}");
    }
}

#[test]
fn several_gpus_have_memory_of_their_own() {
    let Some(emulator) = Emulator::alone() else { return };
    emulator.set(Setting::Devices, 3);
    assert_eq!(device_count().unwrap(), 3);
    let backends = [0, 2].map(|index| CudaBackend::new(index, Dtype::F32).unwrap());
    assert!(backends[1].describe().starts_with("cuda:2 "), "{}", backends[1].describe());
    let values = random(1000, 5);
    let arrays = [0, 1].map(|i| backends[i].upload(&values).unwrap());
    for i in [0, 1, 0, 1] {
        let mut sum = backends[i].upload(&values).unwrap();
        backends[i].add(&arrays[i], &mut sum).unwrap();
        assert_eq!(backends[i].download(&sum).unwrap(), values.iter().map(|v| v + v).collect::<Vec<f32>>());
    }
    let message = backends[0].download(&arrays[1]).unwrap_err().to_string();
    assert!(message.contains("copying from the GPU"), "an array of another GPU: {message}");
}

#[test]
fn empty_arrays_are_nothing_to_do() {
    let Some(emulator) = Emulator::alone() else { return };
    let backend = emulator.backend(Dtype::F32);
    let (x, mut y) = (backend.upload(&[]).unwrap(), backend.tensor(0).unwrap());
    backend.zero(&mut y).unwrap();
    backend.add(&x, &mut y).unwrap();
    backend.copy_into(&x, &mut y, 0).unwrap();
    let weight = backend.pack(&Matrix::zeros(3, 5), &[0.0; 5]).unwrap();
    backend.linear(&x, &weight, Epilogue::Store, &mut y).unwrap();
    assert!(backend.download(&y).unwrap().is_empty());
    assert_eq!(backend.indices_len(&backend.upload_indices(&[]).unwrap()), 0);
}

#[test]
fn rows_that_do_not_exist_never_reach_a_kernel() {
    let Some(emulator) = Emulator::alone() else { return };
    let backend = emulator.backend(Dtype::F32);
    let x = backend.upload(&random(12, 1)).unwrap();
    let rows = backend.upload_indices(&[3]).unwrap();
    let mut y = backend.tensor(4).unwrap();
    let gather = std::panic::AssertUnwindSafe(|| backend.gather_rows(&x, 4, &rows, &mut y).is_ok());
    assert!(std::panic::catch_unwind(gather).is_err(), "row 3 of three rows");
}

/// The emulated driver ends the program when it is told to unload what may run.
#[test]
fn a_backend_that_goes_waits_for_its_kernels() {
    let Some(emulator) = Emulator::alone() else { return };
    let backend = emulator.backend(Dtype::F32);
    let (x, mut y) = (backend.upload(&[1.0; 4]).unwrap(), backend.upload(&[1.0; 4]).unwrap());
    backend.add(&x, &mut y).unwrap();
    drop((x, y));
    assert_eq!(emulator.counts([Counter::Synchronisations], || drop(backend)), [1], "once");
}

/// As a model's weights are: more than the staging memory holds, from where the last ones ended.
#[test]
fn uploads_of_any_size_go_through_page_locked_memory() {
    let Some(emulator) = Emulator::alone() else { return };
    let backend = emulator.backend(Dtype::F32);
    let small = backend.upload(&[2.0; 1000]).unwrap();
    let values: Vec<f32> = (0..40 << 20).map(|i| i as f32).collect();
    let mut large = None;
    let counters = [Counter::PageableCopies, Counter::Synchronisations];
    let counts = emulator.counts(counters, || large = Some(backend.upload(&values).unwrap()));
    assert_eq!(counts, [0, 2], "40 Mi values behind the first 16 Mi: two waits for room");
    assert_eq!(backend.download(&small).unwrap(), [2.0; 1000]);
    assert!(backend.download(&large.unwrap()).unwrap() == values);
}
