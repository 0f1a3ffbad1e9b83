//! The device that a session computes on, chosen at run time.

use super::{Observer, Progress, Session, SessionOptions};
use crate::backend::{Backend, CpuBackend};
#[cfg(feature = "cuda")]
use crate::backend::{BackendError, CudaBackend, cuda::device_count};
use crate::choice::Malformed;
use crate::engine::{Engine, Flops};
use crate::model::Model;
use anyhow::Result;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Where a session computes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Device {
    /// A GPU when there is one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPUs with these numbers: each takes its share of a sweep.
    Cuda(Vec<usize>),
    /// Every GPU.
    AllCuda,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::AllCuda => f.write_str("cuda:all"),
            Device::Cuda(numbers) => {
                let names: Vec<String> = numbers.iter().map(|number| format!("cuda:{number}")).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl FromStr for Device {
    type Err = Malformed;

    fn from_str(text: &str) -> std::result::Result<Self, Malformed> {
        let expected = "expected auto, cpu, cuda, cuda:N, cuda:N,cuda:M or cuda:all";
        let number = |name: &str| match name.strip_prefix("cuda:") {
            None if name == "cuda" => Some(0),
            number => number?.parse().ok(),
        };
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda:all" => Ok(Device::AllCuda),
            list => {
                let numbers: Option<Vec<usize>> = list.split(',').map(number).collect();
                let numbers = numbers.ok_or_else(|| format!("{expected}, found {text:?}"))?;
                match super::distinct(&numbers).len() == numbers.len() {
                    true => Ok(Device::Cuda(numbers)),
                    false => Err(format!("expected every GPU once, found {text:?}").into()),
                }
            }
        }
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is done with a model once it is on a device.
///
/// A trait with a generic method, because a closure cannot be generic over the device.
pub(crate) trait DeviceWork: Send {
    /// What comes of it.
    type Output: Send;

    /// Does it.
    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<Self::Output>;
}

/// Arithmetic that one thread does while others are being woken.
const LITTLE: Flops = Flops(4_000_000);

/// A model on the devices of a session.
pub(super) enum Engines {
    Cpu(Box<Engine<CpuBackend>>),
    #[cfg(feature = "cuda")]
    Cuda(Box<Engine<CudaBackend>>),
}

impl Engines {
    /// Uploads a model to the devices that the options name.
    pub(super) fn new(model: &Arc<Model>, options: &SessionOptions) -> Result<Self> {
        match &options.device {
            Device::Cpu => Self::on_processor(model, options),
            #[cfg(feature = "cuda")]
            Device::Cuda(numbers) => Self::on_gpus(gpus(numbers, options)?, model, options),
            #[cfg(feature = "cuda")]
            Device::AllCuda => {
                let numbers: Vec<usize> = (0..device_count()?.max(1)).collect();
                Self::on_gpus(gpus(&numbers, options)?, model, options)
            }
            #[cfg(feature = "cuda")]
            Device::Auto => match usable_gpu(options) {
                Some(backend) => Self::on_gpus(vec![backend], model, options),
                None => Self::on_processor(model, options),
            },
            #[cfg(not(feature = "cuda"))]
            Device::Auto => Self::on_processor(model, options),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) | Device::AllCuda => super::wrong!(
                "device",
                "expected cpu or auto, found {}: this program was built without the feature `cuda`; build it with the \
                 default features (no toolkit is needed), and have NVIDIA's driver 470 or newer and a GPU of compute \
                 capability 8.0 or newer",
                options.device
            ),
        }
    }

    /// Does work with the first of them.
    fn run<W: DeviceWork>(&self, observer: &mut dyn Observer, work: W) -> Result<W::Output> {
        match self {
            Engines::Cpu(engine) => work.run(engine, observer),
            #[cfg(feature = "cuda")]
            Engines::Cuda(engine) => work.run(engine, observer),
        }
    }

    fn on_processor(model: &Arc<Model>, options: &SessionOptions) -> Result<Self> {
        Ok(Self::Cpu(Box::new(uploaded(vec![CpuBackend::new(options.dtype)?], model, options)?)))
    }

    #[cfg(feature = "cuda")]
    fn on_gpus(backends: Vec<CudaBackend>, model: &Arc<Model>, options: &SessionOptions) -> Result<Self> {
        Ok(Self::Cuda(Box::new(uploaded(backends, model, options)?)))
    }
}

/// Uploads a model to every one of the devices; the first has the others as its peers.
fn uploaded<B: Backend>(backends: Vec<B>, model: &Arc<Model>, options: &SessionOptions) -> Result<Engine<B>> {
    let engine = |backend: B| {
        tracing::info!(device = backend.describe(), "computing");
        let engine = Engine::new(backend, model.clone())?.with_max_tokens(options.batch_tokens as usize);
        Ok(match options.memory_budget() {
            Some(bytes) => engine.with_memory_budget(bytes),
            None => engine,
        })
    };
    let mut engines = backends.into_iter().map(engine).collect::<Result<Vec<_>>>()?;
    let first = engines.remove(0);
    Ok(first.with_peers(engines))
}

#[cfg(feature = "cuda")]
fn gpus(numbers: &[usize], options: &SessionOptions) -> Result<Vec<CudaBackend>> {
    Ok(numbers.iter().map(|&number| CudaBackend::new(number, options.dtype)).collect::<Result<_, _>>()?)
}

/// Is there a GPU, usable or not?
#[cfg(feature = "cuda")]
fn has_gpu() -> bool {
    !matches!(device_count(), Ok(0) | Err(BackendError::NoDriver))
}

#[cfg(not(feature = "cuda"))]
fn has_gpu() -> bool {
    false
}

/// The first GPU, if it can be used; one that is there and cannot is worth a warning.
#[cfg(feature = "cuda")]
fn usable_gpu(options: &SessionOptions) -> Option<CudaBackend> {
    if !has_gpu() {
        return None;
    }
    match CudaBackend::new(0, options.dtype) {
        Ok(backend) => Some(backend),
        Err(error) => {
            tracing::warn!("device auto: the GPU cannot be used, so the processor computes: {error}");
            None
        }
    }
}

impl Session {
    /// Does work on the session's device, in its threads; uploads the model when that has not been done yet.
    ///
    /// # Errors
    /// Those of the device, and of the work.
    pub(crate) fn compute<W: DeviceWork>(&self, observer: &mut dyn Observer, work: W) -> Result<W::Output> {
        let engines = self.engines(observer)?;
        self.in_pool(|| engines.run(observer, work))
    }

    /// As [`Session::compute`], for work of so much arithmetic. Little of it stays in the thread that asks for it, if that is
    /// one of a rayon pool: handing it to others and waiting for them would take longer.
    pub(super) fn compute_at_hand<W: DeviceWork>(
        &self,
        observer: &mut dyn Observer,
        arithmetic: Flops,
        work: W,
    ) -> Result<W::Output> {
        if arithmetic.0 > LITTLE.0 || rayon::current_thread_index().is_none() {
            return self.compute(observer, work);
        }
        let ready = self.loaded.engines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        match ready {
            Some(engines) => engines.run(observer, work),
            None => self.compute(observer, work),
        }
    }

    /// The model on the devices, uploaded when that has not been done yet.
    ///
    /// Who waits for the lock does so outside of the pool: a thread of the pool that waits for a part of the upload takes up
    /// whatever else there is to do, and were that to ask for the model as well, it would wait for itself.
    fn engines(&self, observer: &mut dyn Observer) -> Result<Arc<Engines>> {
        // A thread that panicked in here has left either no engine or a whole one.
        let mut engines = self.loaded.engines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(engines) = &*engines {
            return Ok(engines.clone());
        }
        let _progress = Progress::new(observer, format!("loading {}", self.model().name), 0);
        let uploaded = self.in_pool(|| Engines::new(&self.loaded.model, &self.options))?;
        Ok(engines.insert(Arc::new(uploaded)).clone())
    }

    /// Floating-point operations per second that the processor does at most in the session's threads and number format,
    /// measured now; none where a GPU computes.
    pub fn processor_peak(&self) -> Option<f64> {
        let device = &self.options.device;
        let here = *device == Device::Cpu || *device == Device::Auto && !has_gpu();
        let measured = || self.in_pool(|| Ok(CpuBackend::new(self.options.dtype)?.peak()));
        here.then(measured)?.ok().flatten()
    }

    /// Runs `work` in the session's threads.
    pub(crate) fn in_pool<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.pool.install(work)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Silent;
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// The number of layers.
    struct Layers;

    impl DeviceWork for Layers {
        type Output = usize;

        fn run<B: Backend>(self, engine: &Engine<B>, _: &mut dyn Observer) -> Result<usize> {
            Ok(engine.config().n_layers)
        }
    }

    #[test]
    fn threads_that_are_the_first_to_compute_wait_for_one_upload() {
        for _ in 0..50 {
            let options = SessionOptions { device: Device::Cpu, ..SessionOptions::default() };
            let session = Session::open("demo", options).unwrap();
            let (sender, receiver) = channel();
            for _ in 0..4 {
                let (session, sender) = (session.clone(), sender.clone());
                std::thread::spawn(move || sender.send(session.compute(&mut Silent, Layers).unwrap()));
            }
            for _ in 0..4 {
                let layers = receiver.recv_timeout(Duration::from_secs(60)).expect("no thread waits for itself");
                assert_eq!(layers, session.config().n_layers);
            }
        }
    }

    #[test]
    fn devices_are_named_and_numbered() {
        assert_eq!("auto".parse(), Ok(Device::Auto));
        assert_eq!("cpu".parse(), Ok(Device::Cpu));
        assert_eq!("cuda".parse(), Ok(Device::Cuda(vec![0])));
        assert_eq!("cuda:3".parse(), Ok(Device::Cuda(vec![3])));
        assert_eq!("cuda:1,cuda:0".parse(), Ok(Device::Cuda(vec![1, 0])));
        assert_eq!("cuda:all".parse(), Ok(Device::AllCuda));
        assert!("cuda:0,cuda".parse::<Device>().unwrap_err().to_string().contains("every GPU once"));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "auto:1", "cuda:0,", "cpu,cuda", "cuda:0,1"] {
            let message = wrong.parse::<Device>().unwrap_err().to_string();
            assert!(message.contains("cuda:N"), "{wrong}: {message}");
        }
        for name in ["auto", "cpu", "cuda:1,cuda:0", "cuda:all"] {
            let device: Device = serde_json::from_value(name.into()).unwrap();
            assert_eq!(serde_json::to_value(&device).unwrap(), name);
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_the_cuda_feature_the_processor_computes_and_gpus_are_an_error() {
        let model = Arc::new(Model::load("demo", &Default::default()).unwrap());
        let engines = |device: &str| {
            Engines::new(&model, &SessionOptions { device: device.parse().unwrap(), ..SessionOptions::default() })
        };
        assert!(engines("auto").is_ok());
        for device in ["cuda", "cuda:1", "cuda:all"] {
            let message = engines(device).err().unwrap().to_string();
            for part in [device, "without the feature `cuda`", "default features", "driver 470", "8.0"] {
                assert!(message.contains(part), "{device}: {message}");
            }
        }
    }
}
