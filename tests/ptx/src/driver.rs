//! What the stand-in driver (tests/emulator/driver.cpp) calls: a table of C functions, handed to it by the test program.

use crate::{Counts, Global, Kernel, Launch, Module, Order, Region, Sums};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::sync::{LazyLock, Mutex, PoisonError};

/// As tests/emulator/driver.cpp declares it.
#[derive(Debug)]
#[repr(C)]
pub struct Interpreter {
    /// A module from its text; null when it cannot be read.
    pub load: extern "C" fn(*const c_char) -> *const Module,
    /// A kernel by name; null when the module has none.
    pub entry: extern "C" fn(*const Module, *const c_char) -> *const Kernel,
    /// Writes offset and bytes of a parameter; false when there is none of this number.
    pub parameter: extern "C" fn(*const Kernel, usize, *mut [usize; 2]) -> bool,
    /// Bytes of shared memory that the text itself asks for.
    pub shared_bytes: extern "C" fn(*const Kernel) -> usize,
    /// False when the launch went wrong.
    pub launch: extern "C" fn(*const Kernel, *const Request) -> bool,
}

/// A launch as the driver hands it over.
#[derive(Debug)]
#[repr(C)]
pub struct Request {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: usize,
    parameters: *const u8,
    parameter_bytes: usize,
    regions: *const Region,
    n_regions: usize,
    /// 0 forwards, 1 backwards, 2 random.
    order: i32,
    seed: u32,
    /// 0 to nearest, 1 as an H100.
    sums: i32,
    fused: bool,
}

/// The functions.
pub static INTERPRETER: Interpreter = Interpreter { load, entry, parameter, shared_bytes, launch };

/// Texts that were read once; they stay for the rest of the program.
static MODULES: LazyLock<Mutex<HashMap<String, &'static Module>>> = LazyLock::new(Mutex::default);

type Edit = Box<dyn Fn(&str) -> String>;

thread_local! {
    static FAULT: RefCell<Option<String>> = const { RefCell::new(None) };
    static EDIT: RefCell<Option<Edit>> = const { RefCell::new(None) };
    static LAUNCHED: RefCell<HashMap<String, Launched>> = RefCell::default();
}

/// Why a call of this thread failed last; taken.
pub fn last_fault() -> Option<String> {
    FAULT.take()
}

/// From now on this thread loads texts changed like this.
pub fn edit(edit: impl Fn(&str) -> String + 'static) {
    EDIT.set(Some(Box::new(edit)));
}

/// Launches of a kernel.
#[derive(Debug, Clone)]
pub struct Launched {
    pub launches: u64,
    pub counts: Counts,
    /// Threads of a block, the most of them.
    pub threads: usize,
    /// The most bytes of shared memory that one of them asked for.
    pub dynamic_shared: usize,
}

/// What this thread's launches of each kernel have done since the last call.
pub fn counted() -> HashMap<String, Launched> {
    LAUNCHED.take()
}

fn fail(message: String) {
    eprintln!("ptx: {message}");
    FAULT.set(Some(message));
}

extern "C" fn load(text: *const c_char) -> *const Module {
    // SAFETY: the driver hands over what the program gave it, a text that ends with a zero.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = EDIT.with_borrow(|edit| match edit {
        Some(edit) => Cow::Owned(edit(&text)),
        None => text,
    });
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = modules.get(&*text) {
        return *module;
    }
    match Module::read(&text) {
        Ok(module) => {
            let module: &'static Module = Box::leak(Box::new(module));
            modules.insert(text.into_owned(), module);
            module
        }
        Err(error) => {
            fail(error.to_string());
            std::ptr::null()
        }
    }
}

extern "C" fn entry(module: *const Module, name: *const c_char) -> *const Kernel {
    // SAFETY: modules live as long as the program, and names end with a zero.
    let (module, name) = unsafe { (&*module, CStr::from_ptr(name)) };
    module.kernel(&name.to_string_lossy()).map_or(std::ptr::null(), std::ptr::from_ref)
}

extern "C" fn parameter(kernel: *const Kernel, number: usize, to: *mut [usize; 2]) -> bool {
    // SAFETY: kernels live as long as the program; the driver gives room for two numbers.
    let (kernel, to) = unsafe { (&*kernel, &mut *to) };
    let found = kernel.parameters.get(number);
    found.inspect(|parameter| *to = [parameter.offset, parameter.bytes]).is_some()
}

extern "C" fn shared_bytes(kernel: *const Kernel) -> usize {
    // SAFETY: kernels live as long as the program.
    unsafe { &*kernel }.shared_bytes
}

extern "C" fn launch(kernel: *const Kernel, request: *const Request) -> bool {
    // SAFETY: kernels live as long as the program; the driver's request and what it points to live during the call.
    let (kernel, request) = unsafe { (&*kernel, &*request) };
    let slice =
        |from: *const u8, len| if len == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(from, len) } };
    // SAFETY: the driver's list of its arrays, in the order of their addresses.
    let global = unsafe { Global::new(std::slice::from_raw_parts(request.regions, request.n_regions)) };
    let launch = Launch {
        grid: request.grid,
        block: request.block,
        dynamic_shared: request.dynamic_shared,
        parameters: slice(request.parameters, request.parameter_bytes),
        global,
        order: [Order::Forward, Order::Reverse, Order::Random][request.order.clamp(0, 2) as usize],
        seed: request.seed,
        sums: if request.sums == 0 { Sums::Nearest } else { Sums::Hopper },
        fused: request.fused,
    };
    match kernel.launch(&launch) {
        Ok(counts) => {
            LAUNCHED.with_borrow_mut(|all| {
                let none = || Launched { launches: 0, counts: Counts::new(kernel), threads: 0, dynamic_shared: 0 };
                let sum = all.entry(kernel.name.clone()).or_insert_with(none);
                sum.launches += 1;
                sum.counts.add(&counts);
                sum.threads = sum.threads.max(launch.block.iter().map(|n| *n as usize).product());
                sum.dynamic_shared = sum.dynamic_shared.max(launch.dynamic_shared);
            });
            true
        }
        Err(fault) => {
            fail(fault.to_string());
            false
        }
    }
}
