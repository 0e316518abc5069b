//! As much of Vulkan as the program needs. Everything that is made lives until its [`Gpu`] is
//! dropped, command buffers are recorded once, and nothing here can be used from two threads: so
//! what Vulkan asks of its callers holds whatever the program does with it.
#![expect(unsafe_code, reason = "Vulkan's functions are unsafe to call")]

mod memory;
mod sync;

use std::cell::RefCell;
use std::ffi::CStr;

use ash::{Device, Entry, Instance, khr, vk};

pub(crate) use memory::{Kind, Memory};
pub(crate) use sync::{Event, Wait};

/// What the driver must have.
const EXTENSIONS: [&CStr; 2] =
    [khr::external_memory_fd::NAME, ash::ext::external_memory_dma_buf::NAME];

/// A device of the Intel driver, its queue, and all that was made on it.
pub(crate) struct Gpu {
    name: String,
    memory_types: vk::PhysicalDeviceMemoryProperties,
    physical: vk::PhysicalDevice,
    queue: vk::Queue,
    pool: vk::CommandPool,
    memory_fd: khr::external_memory_fd::Device,
    made: RefCell<Made>,
    device: Device,
    instance: Instance,
    /// The loader's library, which the others are functions of.
    _entry: Entry,
}

/// What is to be destroyed.
#[derive(Default)]
struct Made {
    buffers: Vec<vk::Buffer>,
    memories: Vec<vk::DeviceMemory>,
    fences: Vec<vk::Fence>,
    events: Vec<vk::Event>,
    semaphores: Vec<vk::Semaphore>,
}

/// A command.
pub(crate) enum Step<'a> {
    /// All of it, with a number.
    Fill(&'a Memory<'a>, u32),
    /// All of the first to the second.
    Copy(&'a Memory<'a>, &'a Memory<'a>),
    /// Sets an event.
    Set(Event),
}

impl Gpu {
    /// The first device of Intel's.
    pub(crate) fn open() -> Self {
        // SAFETY: the system's Vulkan loader, which keeps no promise to others when it starts.
        let entry = unsafe { Entry::load() }.expect("libvulkan.so.1 is installed (libvulkan1)");
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: the entry outlives it, as a field of the same structure.
        let instance = unsafe { entry.create_instance(&info, None) }.expect("an instance");
        let (physical, name) = intel(&instance);
        // SAFETY: the device is of this instance.
        let memory_types = unsafe { instance.get_physical_device_memory_properties(physical) };
        let device = opened(&instance, physical);
        // SAFETY: the device was made with one queue of this family.
        let queue = unsafe { device.get_device_queue(0, 0) };
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(0);
        // SAFETY: the device outlives it: `drop` destroys the pool first.
        let pool = unsafe { device.create_command_pool(&info, None) }.expect("a command pool");
        let memory_fd = khr::external_memory_fd::Device::new(&instance, &device);
        let made = RefCell::default();
        let _entry = entry;
        Self {
            name,
            memory_types,
            physical,
            queue,
            pool,
            memory_fd,
            made,
            device,
            instance,
            _entry,
        }
    }

    /// The device's.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Submits commands to the queue: after what is waited for they run, then the rest is signalled.
    pub(crate) fn submit(
        &self,
        steps: &[Step<'_>],
        after: &[Wait],
        then: &[Wait],
        fence: Option<vk::Fence>,
    ) {
        let commands = [self.recorded(steps)];
        let split = |waits: &[Wait]| -> (Vec<_>, Vec<_>) {
            waits.iter().map(|Wait(timeline, value)| (*timeline, *value)).unzip()
        };
        let ((after, after_values), (then, then_values)) = (split(after), split(then));
        let stages = vec![vk::PipelineStageFlags::ALL_COMMANDS; after.len()];
        let mut values = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&after_values)
            .signal_semaphore_values(&then_values);
        let submit = vk::SubmitInfo::default()
            .push_next(&mut values)
            .wait_semaphores(&after)
            .wait_dst_stage_mask(&stages)
            .command_buffers(&commands)
            .signal_semaphores(&then);
        // SAFETY: everything is of this device and lives as long as it; the fence is unsignalled and
        // in no other submission, because `wait_for_fence` resets it before it can be used again.
        let result =
            unsafe { self.device.queue_submit(self.queue, &[submit], fence.unwrap_or_default()) };
        result.expect("a submission");
    }

    fn recorded(&self, steps: &[Step<'_>]) -> vk::CommandBuffer {
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .command_buffer_count(1);
        // SAFETY: the pool is of this device.
        let made = unsafe { self.device.allocate_command_buffers(&info) };
        let commands = made.expect("a command buffer")[0];
        let begin = vk::CommandBufferBeginInfo::default();
        // SAFETY: it is new.
        unsafe { self.device.begin_command_buffer(commands, &begin) }.expect("it begins");
        for step in steps {
            self.record(commands, step);
        }
        // SAFETY: it is being recorded.
        unsafe { self.device.end_command_buffer(commands) }.expect("it ends");
        commands
    }

    fn record(&self, commands: vk::CommandBuffer, step: &Step<'_>) {
        match *step {
            Step::Fill(to, value) => {
                // SAFETY: the buffer is of this device, bound, and has this size.
                unsafe { self.device.cmd_fill_buffer(commands, to.buffer, 0, to.bytes, value) };
            }
            Step::Copy(from, to) => {
                let region = [vk::BufferCopy::default().size(from.bytes.min(to.bytes))];
                // SAFETY: both are of this device, bound, and have at least this size.
                unsafe { self.device.cmd_copy_buffer(commands, from.buffer, to.buffer, &region) };
            }
            Step::Set(event) => {
                let stage = vk::PipelineStageFlags::ALL_COMMANDS;
                // SAFETY: the event is of this device.
                unsafe { self.device.cmd_set_event(commands, event.0, stage) };
            }
        }
    }

    /// Waits until nothing runs.
    pub(crate) fn idle(&self) {
        // SAFETY: no other thread uses the queue.
        unsafe { self.device.device_wait_idle() }.expect("the device is not lost");
    }
}

fn intel(instance: &Instance) -> (vk::PhysicalDevice, String) {
    // SAFETY: the instance is there.
    let devices = unsafe { instance.enumerate_physical_devices() }.expect("the loader has drivers");
    for device in devices {
        // SAFETY: the device is of this instance.
        let properties = unsafe { instance.get_physical_device_properties(device) };
        if properties.vendor_id == 0x8086 {
            let name = properties.device_name_as_c_str().expect("Vulkan ends names");
            return (device, name.to_string_lossy().into_owned());
        }
    }
    panic!("no device of Intel's")
}

fn opened(instance: &Instance, physical: vk::PhysicalDevice) -> Device {
    let priorities = [1.0];
    let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&priorities)];
    let extensions = EXTENSIONS.map(CStr::as_ptr);
    let mut features = vk::PhysicalDeviceVulkan12Features::default().timeline_semaphore(true);
    let info = vk::DeviceCreateInfo::default()
        .push_next(&mut features)
        .queue_create_infos(&queues)
        .enabled_extension_names(&extensions);
    // SAFETY: the physical device is of this instance, which outlives the device: `drop` destroys
    // the device first.
    unsafe { instance.create_device(physical, &info, None) }.expect("a device")
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.idle();
        let made = self.made.take();
        // SAFETY (of all these): the queue is idle, so nothing uses them, and they were made once.
        for semaphore in made.semaphores {
            // SAFETY: as above.
            unsafe { self.device.destroy_semaphore(semaphore, None) };
        }
        for event in made.events {
            // SAFETY: as above.
            unsafe { self.device.destroy_event(event, None) };
        }
        for fence in made.fences {
            // SAFETY: as above.
            unsafe { self.device.destroy_fence(fence, None) };
        }
        for buffer in made.buffers {
            // SAFETY: as above.
            unsafe { self.device.destroy_buffer(buffer, None) };
        }
        for memory in made.memories {
            // SAFETY: as above; a `Memory`, whose mapping goes with it, borrows the `Gpu`.
            unsafe { self.device.free_memory(memory, None) };
        }
        // SAFETY: as above, with the command buffers in it.
        unsafe { self.device.destroy_command_pool(self.pool, None) };
        // SAFETY: as above; it was the last thing of the device.
        unsafe { self.device.destroy_device(None) };
        // SAFETY: as above; the device was the only one.
        unsafe { self.instance.destroy_instance(None) };
    }
}
