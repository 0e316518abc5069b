//! A client that changes its mind: the context is destroyed before anything needed it, so the
//! device never hears of it.

use super::super::studio::Studio;
use super::Role;

pub(super) fn create(studio: &mut Studio) -> Result<(), String> {
    studio.make_vm()?;
    studio.make_configured(Role::Ghost.priority(), "", |builder| builder)
}

pub(super) fn configure(studio: &mut Studio) -> Result<(), String> {
    if !studio.configure("STATUS: still proto", |s| s.is_proto())? {
        return Err("the context was materialised, though nothing needed it".to_owned());
    }
    let context = studio.take_context()?;
    studio.configure("CONTEXT_DESTROY", |_| context.destroy())
}
