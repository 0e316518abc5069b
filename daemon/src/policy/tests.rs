use super::*;

fn policy(text: &str) -> Policy {
    try_policy(text).unwrap_or_else(|wrong| panic!("{wrong:?}"))
}

#[derive(serde::Deserialize)]
struct Shape {
    #[serde(default)]
    class: Vec<file::ClassFile>,
    default_class: Option<String>,
}

fn try_policy(text: &str) -> Result<Policy, file::Wrong> {
    let shape: Shape = toml::from_str(text).expect("TOML of this shape");
    file::policy(shape.class, shape.default_class.as_deref())
}

fn subject() -> Subject {
    Subject {
        listener: "main".to_owned(),
        uid: 1000,
        gid: 100,
        cgroup: Fact::Is("/system.slice/docker-0123.scope".to_owned()),
        app_id: Fact::None,
    }
}

const THREE: &str = r#"
    default_class = "deny"
    [[class]]
    name = "games"
    match = { app_id = ["org.games.*"], uid = [1000] }
    [[class]]
    name = "containers"
    match.cgroup = ["/system.slice/docker-*.scope", "/machine.slice/**"]
    [[class]]
    name = "people"
    match = { uid = [7, "1000-1999"], listener = ["main", "desk*"] }
"#;

#[test]
fn the_first_class_that_matches_counts_and_nobody_else_gets_in() {
    let policy = policy(THREE);
    let class = |change: &dyn Fn(&mut Subject)| {
        let mut subject = subject();
        change(&mut subject);
        let decision = policy.decide(&subject);
        (decision.class, decision.denied.is_some())
    };
    let named = |name: &str| (name.to_owned(), false);
    assert_eq!(class(&|_| {}), named("containers"));
    assert_eq!(class(&|it| it.app_id = Fact::Is("org.games.Pong".to_owned())), named("games"));
    let outside = |it: &mut Subject| it.cgroup = Fact::Is("/user.slice".to_owned());
    assert_eq!(class(&outside), named("people"));
    assert_eq!(class(&|it| (outside(it), it.uid = 1999).1), named("people"));
    assert_eq!(class(&|it| (outside(it), it.listener = "desktop".to_owned()).1), named("people"));
    for stranger in [
        &|it: &mut Subject| (outside(it), it.uid = 2000).1,
        &|it: &mut Subject| (outside(it), it.listener = "other".to_owned()).1,
        // `*` stops at a slash, or a container could name its inner groups as it likes.
        &|it: &mut Subject| {
            it.uid = 5;
            it.cgroup = Fact::Is("/system.slice/docker-1/x.scope".to_owned());
        },
    ] as [&dyn Fn(&mut Subject); 3]
    {
        assert_eq!(class(stranger), (DENY.to_owned(), true));
    }
    let deep = Fact::Is("/machine.slice/libpod-1.scope/container".to_owned());
    assert_eq!(class(&|it| it.cgroup = deep.clone()), named("containers"));
}

#[test]
fn who_is_not_known_is_not_let_past_a_class_that_asks() {
    let policy = policy(THREE);
    let unknown = Fact::Unknown("the process is gone".to_owned());
    let decision = policy.decide(&Subject { cgroup: unknown.clone(), ..subject() });
    let denied = decision.denied.expect("refused");
    assert!(denied.contains("class \"containers\"") && denied.contains("is gone"), "{denied}");
    // A condition that fails for certain settles it before what is not known does.
    let stranger = Subject { uid: 5, app_id: unknown, ..subject() };
    assert_eq!(policy.decide(&stranger).class, "containers");
}

#[test]
fn the_decision_says_what_failed() {
    let decision = policy(THREE).decide(&subject());
    assert_eq!(decision.rule, "class \"containers\"");
    let failed: Vec<_> = decision.steps.iter().map(|step| step.failed.as_deref()).collect();
    assert_eq!(failed, [Some("there is no app_id"), None]);
    let stranger = Subject { uid: 5, cgroup: Fact::None, ..subject() };
    let decision = policy(THREE).decide(&stranger);
    assert_eq!(decision.denied.as_deref(), Some("default_class = \"deny\" denies"));
}

#[test]
fn without_a_file_everybody_is_in_the_default_class_and_has_no_privilege() {
    let policy = policy("");
    let decision = policy.decide(&subject());
    assert_eq!((decision.class.as_str(), decision.denied), (DEFAULT, None));
    let class = policy.default_class();
    assert_eq!((class.privileges, class.limits), (Privileges::NONE, ClassLimits::NONE));
}

#[test]
fn what_is_wrong_is_refused_by_class_and_key() {
    let class = |rest: &str| format!("[[class]]\nname = \"a\"\n{rest}");
    for (text, says) in [
        (class("weight = 0"), "class \"a\": weight"),
        (class("weight = 10001"), "class \"a\": weight"),
        (class("rights.priority_max = 1024"), "rights.priority_max"),
        (class("rights.priority_min = 5"), "rights.priority_min"),
        (class("rights.engines = [\"gpu0\"]"), "rights.engines"),
        (class("match.uid = [\"5-4\"]"), "match.uid"),
        (class("match.uid = []"), "match.uid"),
        (class("match.cgroup = [\"[\"]"), "match.cgroup"),
        (class("limits.requests_per_second = 0"), "requests_per_second"),
        (class("[[class]]\nname = \"a\""), "class.name"),
        ("[[class]]\nname = \"deny\"".to_owned(), "class.name"),
        ("[[class]]\nname = \"a b\"".to_owned(), "class.name"),
        ("default_class = \"none\"".to_owned(), "default_class"),
    ] {
        let wrong = try_policy(&text).expect_err(&text);
        assert!(wrong.key.contains(says), "{text}: {wrong:?}");
    }
}

#[test]
fn engines_are_allowed_by_name_or_kind() {
    let policy = policy("[[class]]\nname = \"a\"\nrights.engines = [\"rcs0\", \"vcs\"]");
    let class = policy.class("a").expect("there");
    let caps = gpu_broker_core::Capabilities::kaby_lake_gt3();
    let allowed: Vec<_> =
        caps.engines.iter().filter(|engine| class.allows(engine)).map(|it| &*it.name).collect();
    assert_eq!(allowed, ["rcs0", "vcs0", "vcs1"]);
    assert!(caps.engines.iter().all(|engine| policy.default_class().allows(engine)));
}

#[test]
fn only_what_the_classes_that_a_peer_could_be_in_ask_for_is_looked_up() {
    let policy = policy(THREE);
    let asks = |cgroup, app_id| Asks { cgroup, app_id };
    assert_eq!(policy.asks("main", 1000, 0), asks(true, true));
    assert_eq!(policy.asks("main", 1001, 0), asks(true, false), "only games asks for it");
    let first = self::policy(
        "[[class]]\nname = \"people\"\nmatch.uid = [7]\n[[class]]\nname = \"a\"\nmatch.app_id = [\"a\"]",
    );
    assert_eq!(first.asks("main", 7, 0), asks(false, false), "nobody gets past people");
    assert_eq!(first.asks("main", 8, 0), asks(false, true));
    assert_eq!(Policy::default().asks("main", 7, 0), asks(false, false));
}
