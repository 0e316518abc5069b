//! The device's side of vfio-user: regions, interrupts and guest memory as the emulator (QEMU)
//! asks for them. One connection, then the process is done.

use std::fs::File;
use std::io;
use std::path::Path;

use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_EVENTFD, VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR2_REGION_INDEX,
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion};

use crate::config;
use crate::gpu::Gpu;

/// Bytes of BAR 0: registers, then the global GTT's table.
const BAR0_BYTES: u64 = 16 << 20;
/// Bytes of BAR 2, the aperture.
const BAR2_BYTES: u64 = 256 << 20;

/// Listens on a socket that must not exist yet, and serves the first emulator that connects until
/// it goes.
///
/// # Errors
/// The socket cannot be bound, or the connection broke.
pub fn serve(gpu: Gpu, socket: &Path) -> Result<(), vfio_user::Error> {
    let server = Server::new(socket, true, interrupts(), regions())?;
    server.run(&mut Device { gpu, config: config::initial() })
}

fn interrupts() -> Vec<IrqInfo> {
    let info = |index| {
        let has_one = index == VFIO_PCI_INTX_IRQ_INDEX || index == VFIO_PCI_MSI_IRQ_INDEX;
        IrqInfo { index, flags: VFIO_IRQ_INFO_EVENTFD, count: has_one.into() }
    };
    (0..VFIO_PCI_NUM_IRQS).map(info).collect()
}

fn regions() -> Vec<ServerRegion> {
    let region = |index| {
        let size = match index {
            VFIO_PCI_BAR0_REGION_INDEX => BAR0_BYTES,
            VFIO_PCI_BAR2_REGION_INDEX => BAR2_BYTES,
            VFIO_PCI_CONFIG_REGION_INDEX => config::SIZE as u64,
            _ => 0,
        };
        let access = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
        let flags = if size == 0 { 0 } else { access };
        let argsz = u32::try_from(size_of::<vfio_region_info>()).unwrap_or(0);
        let region_info = vfio_region_info { argsz, flags, index, size, ..Default::default() };
        ServerRegion { region_info, sparse_areas: Vec::new(), mmap_fd: None }
    };
    (0..VFIO_PCI_NUM_REGIONS).map(region).collect()
}

struct Device {
    gpu: Gpu,
    config: [u8; config::SIZE],
}

impl Device {
    fn read_config(&self, at: usize, into: &mut [u8]) {
        for (offset, byte) in (at..).zip(into) {
            *byte = match offset {
                config::FAULTS => self.gpu.shared().faults.bits(),
                _ => self.config.get(offset).copied().unwrap_or(0xff),
            };
        }
    }

    fn write_config(&mut self, at: usize, from: &[u8]) {
        for (offset, byte) in (at..).zip(from) {
            if offset == config::FAULTS {
                self.gpu.set_faults(*byte);
            } else if let Some(register) = self.config.get_mut(offset)
                && !config::is_read_only(offset)
            {
                *register = *byte;
            }
        }
    }
}

impl ServerBackend for Device {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match region {
            VFIO_PCI_BAR0_REGION_INDEX => {
                for (at, part) in (offset..).step_by(4).zip(data.chunks_mut(4)) {
                    let dword = self.gpu.read(at).to_le_bytes();
                    part.copy_from_slice(dword.get(..part.len()).unwrap_or_default());
                }
            }
            VFIO_PCI_BAR2_REGION_INDEX => self.gpu.read_aperture(offset, data),
            VFIO_PCI_CONFIG_REGION_INDEX => {
                self.read_config(usize::try_from(offset).unwrap_or(usize::MAX), data);
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        match region {
            VFIO_PCI_BAR0_REGION_INDEX => {
                for (at, part) in (offset..).step_by(4).zip(data.chunks(4)) {
                    // Accesses of less than a dword do not occur.
                    let dword = part.try_into().map_or(0, u32::from_le_bytes);
                    self.gpu.write(at, dword);
                }
            }
            VFIO_PCI_BAR2_REGION_INDEX => self.gpu.write_aperture(offset, data),
            VFIO_PCI_CONFIG_REGION_INDEX => {
                self.write_config(usize::try_from(offset).unwrap_or(usize::MAX), data);
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        _flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        file: Option<File>,
    ) -> io::Result<()> {
        // What comes without a file is no RAM: ROMs, and our own BARs.
        match file {
            Some(file) => self.gpu.shared().guest.map(address, size, file, offset),
            None => Ok(()),
        }
    }

    fn dma_unmap(&mut self, _flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        self.gpu.shared().guest.unmap(address, size);
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.gpu.reset();
        self.config = config::initial();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        _flags: u32,
        _start: u32,
        _count: u32,
        mut files: Vec<File>,
    ) -> io::Result<()> {
        // The driver uses MSI. The line is offered because PCI wants it, and never raised.
        if index == VFIO_PCI_MSI_IRQ_INDEX {
            self.gpu.shared().interrupts.connect(files.pop());
        }
        Ok(())
    }
}
