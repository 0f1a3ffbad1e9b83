//! `--device`: which device a run computes on, and the one place where commands meet it.

use super::common::{RunArgs, spinner};
use crate::backend::{Backend, CpuBackend};
#[cfg(feature = "cuda")]
use crate::backend::{BackendError, CudaBackend, cuda::device_count};
use crate::engine::Engine;
use crate::model::Model;
use anyhow::Result;
#[cfg(not(feature = "cuda"))]
use anyhow::bail;
use serde::{Serialize, Serializer};
use std::str::FromStr;

/// Where a run computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A GPU when there is one, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Device::Auto => serializer.serialize_str("auto"),
            Device::Cpu => serializer.serialize_str("cpu"),
            Device::Cuda(index) => serializer.collect_str(&format_args!("cuda:{index}")),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = || format!("expected auto, cpu, cuda or cuda:N, found {text:?}");
        match text.split_once(':') {
            None if text == "auto" => Ok(Device::Auto),
            None if text == "cpu" => Ok(Device::Cpu),
            None if text == "cuda" => Ok(Device::Cuda(0)),
            Some(("cuda", number)) => number.parse().map(Device::Cuda).map_err(|_| expected()),
            _ => Err(expected()),
        }
    }
}

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
        match self.device {
            Device::Cpu => self.with(CpuBackend::new(self.dtype())?, model, work),
            #[cfg(feature = "cuda")]
            Device::Cuda(index) => self.with(CudaBackend::new(index, self.dtype())?, model, work),
            #[cfg(feature = "cuda")]
            Device::Auto => match self.usable_gpu() {
                Some(backend) => self.with(backend, model, work),
                None => self.with(CpuBackend::new(self.dtype())?, model, work),
            },
            #[cfg(not(feature = "cuda"))]
            Device::Auto => self.with(CpuBackend::new(self.dtype())?, model, work),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => bail!("--device cuda: this program was built without the feature `cuda`"),
        }
    }

    fn with<B: Backend, W: DeviceWork>(&self, backend: B, model: Model, work: W) -> Result<W::Output> {
        tracing::info!(device = backend.describe(), "computing");
        let spinner = spinner(format!("loading {}", model.name));
        let engine = Engine::new(backend, model)?.with_max_tokens(self.batch_tokens as usize);
        spinner.finish_and_clear();
        work.run(&engine)
    }

    /// The first GPU, if it can be used; one that is there and cannot is worth a warning.
    #[cfg(feature = "cuda")]
    fn usable_gpu(&self) -> Option<CudaBackend> {
        match device_count() {
            Ok(0) | Err(BackendError::NoDriver) => return None,
            _ => {}
        }
        match CudaBackend::new(0, self.dtype()) {
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
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(Device::Cuda(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "auto:1"] {
            let message = wrong.parse::<Device>().unwrap_err();
            assert!(message.contains("cuda:N"), "{wrong}: {message}");
        }
    }
}
