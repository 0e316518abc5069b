//! What is waited for.

use std::slice;

use ash::vk;

use super::Gpu;

/// A value of a timeline.
#[derive(Clone, Copy)]
pub(crate) struct Wait(pub(crate) vk::Semaphore, pub(crate) u64);

/// What the GPU sets and the program looks at.
#[derive(Clone, Copy)]
pub(crate) struct Event(pub(super) vk::Event);

impl Gpu {
    pub(crate) fn fence(&self) -> vk::Fence {
        let info = vk::FenceCreateInfo::default();
        // SAFETY: `drop` destroys it before the device.
        let fence = unsafe { self.device.create_fence(&info, None) }.expect("a fence");
        self.made.borrow_mut().fences.push(fence);
        fence
    }

    /// A timeline that is at 0.
    pub(crate) fn timeline(&self) -> vk::Semaphore {
        let mut kind =
            vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: `drop` destroys it before the device.
        let timeline = unsafe { self.device.create_semaphore(&info, None) }.expect("a timeline");
        self.made.borrow_mut().semaphores.push(timeline);
        timeline
    }

    pub(crate) fn event(&self) -> Event {
        let info = vk::EventCreateInfo::default();
        // SAFETY: `drop` destroys it before the device.
        let event = unsafe { self.device.create_event(&info, None) }.expect("an event");
        self.made.borrow_mut().events.push(event);
        Event(event)
    }

    /// Whether the GPU has set it.
    pub(crate) fn is_set(&self, event: Event) -> bool {
        // SAFETY: the event is of this device.
        unsafe { self.device.get_event_status(event.0) }.expect("the device is not lost")
    }

    /// Waits for a fence and resets it; false when it did not signal in that many nanoseconds.
    pub(crate) fn wait_for_fence(&self, fence: vk::Fence, ns: u64) -> bool {
        let fences = slice::from_ref(&fence);
        // SAFETY: the fence is of this device.
        if !signalled(unsafe { self.device.wait_for_fences(fences, true, ns) }) {
            return false;
        }
        // SAFETY: it has signalled, so no submission has it.
        unsafe { self.device.reset_fences(fences) }.expect("a fence can be reset");
        true
    }

    /// Waits for a value; false when it was not reached in that many nanoseconds.
    pub(crate) fn wait(&self, Wait(timeline, value): Wait, ns: u64) -> bool {
        let (timelines, values) = ([timeline], [value]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&timelines).values(&values);
        // SAFETY: it is a timeline of this device.
        signalled(unsafe { self.device.wait_semaphores(&info, ns) })
    }

    /// Signals a value from the host.
    pub(crate) fn signal(&self, Wait(timeline, value): Wait) {
        let info = vk::SemaphoreSignalInfo::default().semaphore(timeline).value(value);
        // SAFETY: it is a timeline of this device; a value that does not grow is refused or ignored.
        unsafe { self.device.signal_semaphore(&info) }.expect("it can be signalled");
    }

    /// The value that was reached.
    pub(crate) fn reached(&self, timeline: vk::Semaphore) -> u64 {
        // SAFETY: it is a timeline of this device.
        unsafe { self.device.get_semaphore_counter_value(timeline) }.expect("a timeline")
    }
}

fn signalled(waited: ash::prelude::VkResult<()>) -> bool {
    match waited {
        Ok(()) => true,
        Err(vk::Result::TIMEOUT) => false,
        Err(error) => panic!("{error}"),
    }
}
