//! Context parameters, engine maps and extension chains, as the i915 interface has them but with
//! typed payloads instead of pointers.
//!
//! Sizes and reserved fields that the kernel checks travel with the payload, so that the daemon
//! can give the kernel's answer (rule table §3–§6).

use serde::{Deserialize, Serialize};

use crate::ids::ContextId;

/// Numbers of context parameters (`I915_CONTEXT_PARAM_*`).
pub mod number {
    /// Removed from the interface.
    pub const BAN_PERIOD: u64 = 0x1;
    /// Removed from the interface.
    pub const NO_ZEROMAP: u64 = 0x2;
    /// Bytes of the context's address space; read-only.
    pub const GTT_SIZE: u64 = 0x3;
    /// Boolean: no error dump when this context hangs.
    pub const NO_ERROR_CAPTURE: u64 = 0x4;
    /// Boolean: hangs may ban the context.
    pub const BANNABLE: u64 = 0x5;
    /// -1023 (least) to 1023.
    pub const PRIORITY: u64 = 0x6;
    /// Slice and subslice configuration.
    pub const SSEU: u64 = 0x7;
    /// Boolean: the context may run on after a hang of its own.
    pub const RECOVERABLE: u64 = 0x8;
    /// The context's address space.
    pub const VM: u64 = 0x9;
    /// The context's engine map.
    pub const ENGINES: u64 = 0xa;
    /// Boolean: work goes on after the context is closed.
    pub const PERSISTENCE: u64 = 0xb;
    /// Removed from the interface.
    pub const RINGSIZE: u64 = 0xc;
    /// Boolean: protected (PXP) content.
    pub const PROTECTED_CONTENT: u64 = 0xd;
    /// Frequency hint of GuC submission.
    pub const LOW_LATENCY: u64 = 0xe;
    /// Debug only: the hardware image of a context.
    pub const CONTEXT_IMAGE: u64 = 0xf;
}

/// Flags of CONTEXT_CREATE.
pub mod create_flag {
    /// The extension chain is looked at.
    pub const USE_EXTENSIONS: u32 = 1 << 0;
    /// All engines of the context share one timeline.
    pub const SINGLE_TIMELINE: u32 = 1 << 1;
}

/// Engine classes (`I915_ENGINE_CLASS_*`).
pub mod class {
    /// 3D and compute.
    pub const RENDER: u16 = 0;
    /// Blitter.
    pub const COPY: u16 = 1;
    /// Video decode and encode.
    pub const VIDEO: u16 = 2;
    /// Video post-processing.
    pub const VIDEO_ENHANCE: u16 = 3;
    /// Compute only.
    pub const COMPUTE: u16 = 4;
    /// No engine: a gap of an engine map, with instance [`INVALID_NONE`].
    pub const INVALID: u16 = 0xffff;
    /// Instance of a gap.
    pub const INVALID_NONE: u16 = 0xffff;
}

/// `struct i915_engine_class_instance`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct EngineId {
    /// One of [`class`].
    pub class: u16,
    /// Counted from 0 within the class.
    pub instance: u16,
}

impl EngineId {
    /// A gap in an engine map.
    pub const GAP: Self = Self { class: class::INVALID, instance: class::INVALID_NONE };
}

/// What SETPARAM takes and GETPARAM gives: `struct drm_i915_gem_context_param`.
///
/// GETPARAM's request carries `Scalar(0)`, or for SSEU the `Sseu` whose engine selector is used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContextParam {
    /// One of [`number`], or any other to be told EINVAL.
    pub param: u64,
    /// Bytes of the payload as the client states them; 0 for scalars.
    pub size: u32,
    /// The payload.
    pub value: ParamValue,
}

/// Payload of a [`ContextParam`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ParamValue {
    /// Booleans, priorities (two's complement), VM ids.
    Scalar(u64),
    /// For SSEU.
    Sseu(Sseu),
    /// For ENGINES.
    Engines(EngineMap),
}

impl ContextParam {
    /// A scalar parameter, with the size the kernel wants for it.
    #[must_use]
    pub const fn scalar(param: u64, value: u64) -> Self {
        Self { param, size: 0, value: ParamValue::Scalar(value) }
    }

    /// PRIORITY.
    #[must_use]
    pub const fn priority(value: i64) -> Self {
        Self::scalar(number::PRIORITY, value.cast_unsigned())
    }

    /// ENGINES, with the size that goes with the map.
    #[must_use]
    pub fn engines(map: EngineMap) -> Self {
        let size = u32::try_from(map.slots.len() * 4 + 8).unwrap_or(u32::MAX);
        Self { param: number::ENGINES, size, value: ParamValue::Engines(map) }
    }

    /// SSEU, with the size of its structure.
    #[must_use]
    pub const fn sseu(value: Sseu) -> Self {
        Self { param: number::SSEU, size: Sseu::BYTES, value: ParamValue::Sseu(value) }
    }
}

/// `struct drm_i915_gem_context_param_sseu` (rule table §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sseu {
    /// Class and instance, or with ENGINE_INDEX: 0 and the slot.
    pub engine: EngineId,
    /// [`Sseu::ENGINE_INDEX`] or 0.
    pub flags: u32,
    /// Slices to enable, a bit each.
    pub slice_mask: u64,
    /// Subslices to enable in each slice, a bit each.
    pub subslice_mask: u64,
    /// Fewest execution units per subslice.
    pub min_eus_per_subslice: u16,
    /// Most execution units per subslice.
    pub max_eus_per_subslice: u16,
    /// Must be 0.
    pub rsvd: u32,
}

impl Sseu {
    /// Bytes of the kernel's structure.
    pub const BYTES: u32 = 32;
    /// Flag: `engine.instance` is a slot of the engine map.
    pub const ENGINE_INDEX: u32 = 1 << 0;
}

/// `struct i915_context_param_engines`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EngineMap {
    /// Slots in order; at most [`crate::limits::ENGINE_SLOTS_MAX`].
    pub slots: Vec<EngineId>,
    /// Applied in order after the slots.
    pub extensions: Vec<Extension<EngineExtension>>,
}

/// One node of an extension chain: `struct i915_user_extension` and what follows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Extension<Body> {
    /// Number of the extension. A body of another kind than the number says is a violation of
    /// the rule "name unknown" and answered EINVAL.
    pub name: u32,
    /// Must be 0.
    pub flags: u32,
    /// Must be 0.
    pub rsvd: [u32; 4],
    /// What the name stands for.
    pub body: Body,
}

impl<Body> Extension<Body> {
    /// A node with its reserved fields zero.
    #[must_use]
    pub const fn new(name: u32, body: Body) -> Self {
        Self { name, flags: 0, rsvd: [0; 4], body }
    }
}

/// Bodies of CONTEXT_CREATE's extensions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CreateExtension {
    /// A name this version has no body for.
    Unknown,
    /// Name 0.
    SetParam {
        /// Must be 0: the context has no id yet.
        context: ContextId,
        /// What to set.
        param: ContextParam,
    },
    /// Name 1; dropped by kernels, kept by us (rule table §16).
    Clone(CloneFrom),
}

impl CreateExtension {
    /// Name of [`Self::SetParam`].
    pub const SET_PARAM: u32 = 0;
    /// Name of [`Self::Clone`].
    pub const CLONE: u32 = 1;
}

/// What to take over from another context of the same session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CloneFrom {
    /// The source; 0 is a legal source.
    pub source: ContextId,
    /// Bits of [`clone_flag`].
    pub flags: u32,
    /// Must be 0.
    pub rsvd: u64,
}

/// Parts of a context that CLONE copies.
pub mod clone_flag {
    /// The engine map.
    pub const ENGINES: u32 = 1 << 0;
    /// BANNABLE, RECOVERABLE, NO_ERROR_CAPTURE, PERSISTENCE.
    pub const FLAGS: u32 = 1 << 1;
    /// The priority.
    pub const SCHEDATTR: u32 = 1 << 2;
    /// Slice configuration, per slot.
    pub const SSEU: u32 = 1 << 3;
    /// The shared timeline of a SINGLE_TIMELINE context.
    pub const TIMELINE: u32 = 1 << 4;
    /// The address space.
    pub const VM: u32 = 1 << 5;
    /// All of the above.
    pub const ALL: u32 = 0x3f;
}

/// Bodies of ENGINES' extensions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EngineExtension {
    /// A name this version has no body for.
    Unknown,
    /// Name 0: the slot is a virtual engine over its siblings.
    LoadBalance {
        /// The slot; must be a gap so far.
        engine_index: u16,
        /// Must be 0.
        flags: u32,
        /// Must be 0.
        mbz64: u64,
        /// The engines to balance over.
        engines: Vec<EngineId>,
    },
    /// Name 1: checked, then ignored, as the kernel does.
    Bond {
        /// Engine whose work the bonded slot follows.
        master: EngineId,
        /// The bonded slot.
        virtual_index: u16,
        /// Must be 0.
        flags: u64,
        /// Must be 0.
        mbz64: [u64; 4],
        /// Engines the slot may run on.
        engines: Vec<EngineId>,
    },
    /// Name 2: one execbuf runs `width` batches side by side.
    ParallelSubmit {
        /// The slot; must be a gap so far.
        engine_index: u16,
        /// Batches per execbuf.
        width: u16,
        /// Engines each batch may run on.
        num_siblings: u16,
        /// Must be 0.
        mbz16: u16,
        /// Must be 0.
        flags: u64,
        /// Must be 0.
        mbz64: [u64; 3],
        /// `width * num_siblings` engines, the siblings of each batch together.
        engines: Vec<EngineId>,
    },
}

impl EngineExtension {
    /// Name of [`Self::LoadBalance`].
    pub const LOAD_BALANCE: u32 = 0;
    /// Name of [`Self::Bond`].
    pub const BOND: u32 = 1;
    /// Name of [`Self::ParallelSubmit`].
    pub const PARALLEL_SUBMIT: u32 = 2;
}
