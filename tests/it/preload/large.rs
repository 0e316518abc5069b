//! Programs that submit more than a message has room for.

use super::Stage;

#[test]
fn thousands_of_objects_and_relocations() {
    let mut stage = Stage::new();
    let before = stage.daemon.footprint();
    let arguments: &[&str] = &[];
    let told = stage.run(stage.compile("large", &[]), arguments);
    assert_eq!(told.succeeded(), "done\n");
    stage.daemon.settles_to(&before);
    stage.daemon.assert_unharmed();
}
