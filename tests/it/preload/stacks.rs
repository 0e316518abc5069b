//! Mesa and the media driver: they find the GPU, name it, and open it.

use super::{Said, Stage, installed, said};

const VULKAN_DRIVER: &str = "/usr/share/vulkan/icd.d/intel_icd.x86_64.json";
const EGLINFO: &str = "/usr/bin/eglinfo.x86_64-linux-gnu";

fn vulkaninfo(stage: &Stage) -> Said {
    installed("vulkaninfo", "vulkan-tools");
    installed(VULKAN_DRIVER, "mesa-vulkan-drivers");
    let mut command = stage.command("vulkaninfo");
    said(command.arg("--summary").env("VK_ICD_FILENAMES", VULKAN_DRIVER))
}

#[test]
fn vulkaninfo_names_the_gpu() {
    let mut stage = Stage::new();
    let told = vulkaninfo(&stage);
    told.succeeded();
    told.says(&["0x8086", "0x5926", "DRIVER_ID_INTEL_OPEN_SOURCE_MESA", "KBL GT3"]);
    stage.daemon.assert_unharmed();
}

/// eglinfo also tries platforms that are not there, and fails for those.
#[test]
fn eglinfo_names_the_driver_on_both_platforms() {
    let mut stage = Stage::new();
    installed(EGLINFO, "mesa-utils-bin");
    let told = stage.run(EGLINFO, &[]);
    for platform in ["Surfaceless platform:", "Device platform:"] {
        let section = told.text.split(platform).nth(1).unwrap_or_default();
        let section = section.split("platform:").next().unwrap_or_default();
        assert!(section.contains("EGL driver name: iris"), "{platform} in:\n{}", told.text);
    }
    stage.daemon.assert_unharmed();
}

#[test]
fn vainfo_lists_the_profiles_of_the_media_driver() {
    let mut stage = Stage::new();
    installed("vainfo", "vainfo and intel-media-va-driver");
    let told = stage.run("vainfo", &["--display", "drm", "--device", "/dev/dri/renderD128"]);
    told.succeeded();
    told.says(&["Intel iHD driver", "VAProfileH264Main", "VAProfileHEVCMain"]);
    stage.daemon.assert_unharmed();
}

/// Contexts, memory, submissions, fences and timelines, as anv makes them.
#[test]
fn a_vulkan_program_submits_and_waits() {
    let mut stage = Stage::new();
    installed(VULKAN_DRIVER, "mesa-vulkan-drivers");
    let program = stage.compile("vulkan", &["-lvulkan"]);
    let told = said(stage.command(program).env("VK_ICD_FILENAMES", VULKAN_DRIVER));
    assert!(told.succeeded().ends_with("done\n"), "{}", told.text);
    stage.daemon.assert_unharmed();
}

/// The same as iris makes them.
#[test]
fn a_gles_program_draws_and_waits() {
    let mut stage = Stage::new();
    let program = stage.compile("gles", &["-lEGL", "-lGLESv2"]);
    let told = stage.run(program, &[]);
    assert!(told.succeeded().ends_with("done\n"), "{}", told.text);
    stage.daemon.assert_unharmed();
}

/// The compute runtime starts by giving the GPU a page of its own, and ends the program when it may
/// not. So it is OpenCL that ends here: the library refuses userptr, which would need the program's
/// memory behind a memfd. The daemon has nothing of it left.
#[test]
fn clinfo_ends_where_it_needs_userptr() {
    let mut stage = Stage::new();
    installed("clinfo", "clinfo");
    installed("/etc/OpenCL/vendors/intel.icd", "intel-opencl-icd");
    let before = stage.daemon.footprint();
    let told = stage.run("clinfo", &[]);
    assert!(!told.output.status.success(), "userptr works: assert the device's name instead");
    told.says(&["Abort was called", "drm_memory_manager.cpp"]);
    stage.daemon.settles_to(&before);
    stage.daemon.assert_unharmed();
}
