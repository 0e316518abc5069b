//! A client that changes its mind: the context is destroyed before anything needed it, so the
//! device never hears of it.

use super::super::studio::Studio;
use super::Role;

pub(super) fn create(studio: &mut Studio) -> Result<(), String> {
    studio.make_vm()?;
    studio.make_configured(Role::Ghost.priority(), "", |builder| builder)
}

pub(super) fn configure(studio: &mut Studio) -> Result<(), String> {
    let context = studio.take_context()?;
    studio.configure("CONTEXT_DESTROY, still proto", |_| context.destroy())
}
