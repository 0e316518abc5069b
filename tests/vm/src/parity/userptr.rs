//! Memory of the program's own: what USERPTR checks (rule table §14).

use gpu_broker_uapi::i915::*;

use crate::Cases;
use crate::kernel::BAD;

pub(crate) fn add(cases: &mut Cases) {
    let flags = [("0", 0), ("read", 1), ("probe", 2), ("both", 3), ("4", 4), ("unsync", 1 << 31)];
    for (flag, flags) in flags {
        for size in [0, 1, 4096, 8192, 4097, 1 << 62, u64::MAX] {
            if flags == 4 && size > 8192 {
                continue;
            }
            for place in ["page", "odd", "null", "bad", "kernel"] {
                if place != "page" && ![0, 4096, 8192, u64::MAX].contains(&size) {
                    continue;
                }
                cases.add(format!("userptr/{flag}/size{size:x}/{place}"), move |node| {
                    let page = node.page();
                    let second = node.page();
                    assert_eq!(second, page + 4096, "pages follow each other");
                    let user_ptr = match place {
                        "page" => page,
                        "odd" => page + 8,
                        "null" => 0,
                        "bad" => BAD,
                        _ => 0xffff_8000_0000_0000,
                    };
                    let mut userptr =
                        drm_i915_gem_userptr { user_ptr, user_size: size, flags, handle: 0 };
                    node.call("userptr", DRM_IOCTL_I915_GEM_USERPTR, &mut userptr);
                });
            }
        }
    }
}
