//! `--device`: which device a run computes on, and the one place where commands meet it.

use super::common::{RunArgs, distinct, spinner};
use crate::backend::{Backend, CpuBackend, Dtype};
#[cfg(feature = "cuda")]
use crate::backend::{BackendError, CudaBackend, cuda::device_count};
use crate::choice::serde_by_text;
use crate::engine::Engine;
use crate::model::Model;
use anyhow::Result;
#[cfg(not(feature = "cuda"))]
use anyhow::bail;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Where a run computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A GPU when there is one, else the processor.
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
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = || format!("expected auto, cpu, cuda, cuda:N, cuda:N,cuda:M or cuda:all, found {text:?}");
        let number = |name: &str| match name.strip_prefix("cuda:") {
            None if name == "cuda" => Some(0),
            number => number?.parse().ok(),
        };
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda:all" => Ok(Device::AllCuda),
            list => {
                let numbers: Vec<usize> = list.split(',').map(number).collect::<Option<_>>().ok_or_else(expected)?;
                match distinct(&numbers).len() == numbers.len() {
                    true => Ok(Device::Cuda(numbers)),
                    false => Err(format!("expected every GPU once, found {text:?}")),
                }
            }
        }
    }
}

serde_by_text!(Device);

/// What a command does with a model once it is on a device.
///
/// A trait with a generic method, because a closure cannot be generic over the device.
pub trait DeviceWork {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Self::Output>;
}

impl RunArgs {
    /// Uploads a model to the chosen device and does the work there.
    pub fn on_device<W: DeviceWork>(&self, model: Model, work: W) -> Result<W::Output> {
        match &self.device {
            Device::Cpu => self.on_processor(self.dtype, model, work),
            #[cfg(feature = "cuda")]
            Device::Cuda(numbers) => self.with(self.gpus(numbers)?, model, work),
            #[cfg(feature = "cuda")]
            Device::AllCuda => {
                let numbers: Vec<usize> = (0..device_count()?.max(1)).collect();
                self.with(self.gpus(&numbers)?, model, work)
            }
            #[cfg(feature = "cuda")]
            Device::Auto => match self.usable_gpu() {
                Some(backend) => self.with(vec![backend], model, work),
                None => self.on_processor(self.dtype, model, work),
            },
            #[cfg(not(feature = "cuda"))]
            Device::Auto => self.on_processor(self.dtype, model, work),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) | Device::AllCuda => bail!(
                "--device cuda: this program was built without the feature `cuda`; build it without \
                 --no-default-features (no toolkit is needed), and have NVIDIA's driver 470 or newer and a GPU of \
                 compute capability 8.0 or newer"
            ),
        }
    }

    /// Does the work on the processor, whatever the chosen device.
    pub fn on_processor<W: DeviceWork>(&self, dtype: Dtype, model: Model, work: W) -> Result<W::Output> {
        self.with(vec![CpuBackend::new(dtype)?], model, work)
    }

    /// Uploads a model to every one of the devices, and does the work on the first, which has the others as its peers.
    fn with<B: Backend, W: DeviceWork>(&self, backends: Vec<B>, model: Model, work: W) -> Result<W::Output> {
        let spinner = spinner(format!("loading {}", model.name));
        let model = Arc::new(model);
        let engine = |backend: B| {
            tracing::info!(device = backend.describe(), "computing");
            let engine = Engine::new(backend, model.clone())?.with_max_tokens(self.batch_tokens as usize);
            Ok(match self.memory_budget() {
                Some(bytes) => engine.with_memory_budget(bytes),
                None => engine,
            })
        };
        let mut engines = backends.into_iter().map(engine).collect::<Result<Vec<_>>>()?;
        let first = engines.remove(0);
        let engine = first.with_peers(engines);
        spinner.finish_and_clear();
        work.run(&engine)
    }

    #[cfg(feature = "cuda")]
    fn gpus(&self, numbers: &[usize]) -> Result<Vec<CudaBackend>> {
        Ok(numbers.iter().map(|&number| CudaBackend::new(number, self.dtype)).collect::<Result<_, _>>()?)
    }

    /// The first GPU, if it can be used; one that is there and cannot is worth a warning.
    #[cfg(feature = "cuda")]
    fn usable_gpu(&self) -> Option<CudaBackend> {
        match device_count() {
            Ok(0) | Err(BackendError::NoDriver) => return None,
            _ => {}
        }
        match CudaBackend::new(0, self.dtype) {
            Ok(backend) => Some(backend),
            Err(error) => {
                tracing::warn!("--device auto: the GPU cannot be used, so the processor computes: {error}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_and_numbered() {
        assert_eq!("auto".parse(), Ok(Device::Auto));
        assert_eq!("cpu".parse(), Ok(Device::Cpu));
        assert_eq!("cuda".parse(), Ok(Device::Cuda(vec![0])));
        assert_eq!("cuda:3".parse(), Ok(Device::Cuda(vec![3])));
        assert_eq!("cuda:1,cuda:0".parse(), Ok(Device::Cuda(vec![1, 0])));
        assert_eq!("cuda:all".parse(), Ok(Device::AllCuda));
        for name in ["auto", "cpu", "cuda:3", "cuda:1,cuda:0", "cuda:all"] {
            let device: Device = serde_json::from_value(name.into()).unwrap();
            assert_eq!(serde_json::to_value(device).unwrap(), name);
        }
        assert!("cuda:0,cuda".parse::<Device>().unwrap_err().contains("every GPU once"));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "auto:1", "cuda:0,", "cpu,cuda", "cuda:0,1"] {
            let message = wrong.parse::<Device>().unwrap_err();
            assert!(message.contains("cuda:N"), "{wrong}: {message}");
        }
    }
}
