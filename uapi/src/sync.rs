//! Structures and ioctl numbers of `linux/sync_file.h` and `linux/dma-buf.h`. User pointers are
//! `u64`.

use crate::ioctl::{abi, constants, ioctls};

abi! {
    sync_merge_data: 48 {
        0 name: [u8; 32],
        32 fd2: i32,
        36 fence: i32,
        40 flags: u32,
        44 pad: u32,
    }
    sync_fence_info: 80 {
        0 obj_name: [u8; 32],
        32 driver_name: [u8; 32],
        64 status: i32,
        68 flags: u32,
        72 timestamp_ns: u64,
    }
    sync_file_info: 56 {
        0 name: [u8; 32],
        32 status: i32,
        36 flags: u32,
        40 num_fences: u32,
        44 pad: u32,
        48 sync_fence_info: u64,
    }
    dma_buf_sync: 8 {
        0 flags: u64,
    }
    dma_buf_export_sync_file: 8 {
        0 flags: u32,
        4 fd: i32,
    }
    dma_buf_import_sync_file: 8 {
        0 flags: u32,
        4 fd: i32,
    }
}

ioctls! {
    SYNC_IOC_MERGE = 0xc0303e03, sync_iowr<sync_merge_data>(0x03);
    SYNC_IOC_FILE_INFO = 0xc0383e04, sync_iowr<sync_file_info>(0x04);
    DMA_BUF_IOCTL_SYNC = 0x40086200, dma_buf_iow<dma_buf_sync>(0x00);
    DMA_BUF_IOCTL_EXPORT_SYNC_FILE = 0xc0086202, dma_buf_iowr<dma_buf_export_sync_file>(0x02);
    DMA_BUF_IOCTL_IMPORT_SYNC_FILE = 0x40086203, dma_buf_iow<dma_buf_import_sync_file>(0x03);
}

constants! { u32, FLAGS:
    DMA_BUF_SYNC_READ = 1;
    DMA_BUF_SYNC_WRITE = 2;
    DMA_BUF_SYNC_RW = 3;
    DMA_BUF_SYNC_START = 0;
    DMA_BUF_SYNC_END = 4;
}
