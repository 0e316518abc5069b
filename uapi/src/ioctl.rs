//! How an ioctl number is put together (`asm-generic/ioctl.h`): direction, size, type, number.

/// The type byte of sync_file ioctls.
pub const SYNC_IOC_MAGIC: u32 = b'>' as u32;
/// The type byte of dma-buf ioctls.
pub const DMA_BUF_BASE: u32 = b'b' as u32;

/// The type byte of every DRM ioctl.
pub const DRM_IOCTL_BASE: u32 = b'd' as u32;
/// Numbers of a driver's own ioctls start here.
pub const DRM_COMMAND_BASE: u32 = 0x40;

const WRITE: u32 = 1 << 30;
const READ: u32 = 2 << 30;

const fn number(direction: u32, kind: u32, nr: u32, size: usize) -> u32 {
    assert!(size < 1 << 14, "an ioctl's size has fourteen bits");
    assert!(nr < 1 << 8, "an ioctl's number has eight bits");
    // The assertion above keeps the size within its field.
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let size = size as u32;
    direction | size << 16 | kind << 8 | nr
}

/// `DRM_IO`: no argument.
#[must_use]
pub const fn io(nr: u32) -> u32 {
    number(0, DRM_IOCTL_BASE, nr, 0)
}

/// `DRM_IOW`: the kernel reads a `T`.
#[must_use]
pub const fn iow<T>(nr: u32) -> u32 {
    number(WRITE, DRM_IOCTL_BASE, nr, size_of::<T>())
}

/// `DRM_IOR`: the kernel writes a `T`.
#[must_use]
pub const fn ior<T>(nr: u32) -> u32 {
    number(READ, DRM_IOCTL_BASE, nr, size_of::<T>())
}

/// `DRM_IOWR`: the kernel reads and writes a `T`.
#[must_use]
pub const fn iowr<T>(nr: u32) -> u32 {
    number(READ | WRITE, DRM_IOCTL_BASE, nr, size_of::<T>())
}

/// As [`iowr`], of a sync_file.
#[must_use]
pub const fn sync_iowr<T>(nr: u32) -> u32 {
    number(READ | WRITE, SYNC_IOC_MAGIC, nr, size_of::<T>())
}

/// As [`iow`], of a dma-buf.
#[must_use]
pub const fn dma_buf_iow<T>(nr: u32) -> u32 {
    number(WRITE, DMA_BUF_BASE, nr, size_of::<T>())
}

/// As [`iowr`], of a dma-buf.
#[must_use]
pub const fn dma_buf_iowr<T>(nr: u32) -> u32 {
    number(READ | WRITE, DMA_BUF_BASE, nr, size_of::<T>())
}

/// Declares a structure with its size and the offset of each field asserted, and lists it for the
/// comparison with the C headers.
macro_rules! abi {
    ($($name:ident: $size:literal { $($offset:literal $field:ident: $ty:ty,)* })*) => {
        $(
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub struct $name { $(pub $field: $ty,)* }

            impl crate::ioctl::Zero for $name {
                const ZERO: Self = Self { $($field: crate::ioctl::Zero::ZERO,)* };
            }

            impl Default for $name {
                fn default() -> Self { crate::ioctl::Zero::ZERO }
            }

            const _: () = assert!(size_of::<$name>() == $size);
            $(const _: () = assert!(core::mem::offset_of!($name, $field) == $offset);)*
        )*

        /// Every structure of this module: name, size, fields with their offsets.
        pub const STRUCTS: &[(&str, usize, &[(&str, usize)])] =
            &[$((stringify!($name), $size, &[$((stringify!($field), $offset),)*]),)*];
    };
}

/// Declares ioctl numbers, asserts them, and lists them for the comparison with the C headers.
macro_rules! ioctls {
    ($($name:ident = $number:literal, $kind:ident $(<$ty:ty>)? ($nr:expr);)*) => {
        $(
            pub const $name: u32 = crate::ioctl::$kind$(::<$ty>)?($nr);
            const _: () = assert!($name == $number);
        )*

        /// Every ioctl of this module: name and number.
        pub const IOCTLS: &[(&str, u32)] = &[$((stringify!($name), $name),)*];
    };
}

/// Declares flags and other numbers, and lists them for the comparison with the C headers.
macro_rules! constants {
    ($ty:ty, $list:ident: $($name:ident = $value:expr;)*) => {
        $(pub const $name: $ty = $value;)*

        /// Numbers of this module: name and value.
        pub const $list: &[(&str, $ty)] = &[$((stringify!($name), $name),)*];
    };
}

pub(crate) use {abi, constants, ioctls};

/// The all-zero value of a field; padding that is not zero is refused by the kernel.
pub(crate) trait Zero {
    const ZERO: Self;
}

macro_rules! zero {
    ($($ty:ty)*) => { $(impl Zero for $ty { const ZERO: Self = 0; })* };
}
zero!(u8 u16 u32 u64 i32 i64 usize);

impl<T: Zero + Copy, const N: usize> Zero for [T; N] {
    const ZERO: Self = [T::ZERO; N];
}
