//! Stream versions: written as the next image reads them, or as the command line asks for; and refused before the pause if there is none.

use super::Scenario;
use crate::build;
use crate::damage::Damage;
use crate::image::Module;
use crate::job::{self, Guest};
use crate::paths;

/// All of them.
pub fn all() -> Vec<Scenario> {
    let (v1, _) = build::FIRST_STREAM;
    vec![
        versions(
            "update-stream-turns",
            "luxen writes version 1, luxen-next version 2, by turns, and each reads the other's",
            &[1, 2, 1, 2],
        )
        .options("lu-stream=1,2")
        .modules(job::images()),
        versions("update-stream-newest", "without being told, both write version 2", &[2, 2]).modules(job::images()),
        versions(
            "update-stream-onward",
            "from a build that knows version 1 alone to two that know both",
            &[1, 2, 2],
        )
        .kernel(v1)
        .modules([image("luxen"), image("luxen-next")])
        .onward()
        .says("from luxen 0.1.0-v1, update 1"),
        versions(
            "update-stream-back",
            "to and fro between a build that knows both versions and one that knows version 1 alone",
            &[1, 1, 1, 1],
        )
        .kernel(v1)
        .modules([image(v1), image("luxen-next")])
        .says("staged luxen 0.1.0-v1 from module luxen-v1.*stream version 1$")
        .says("start: luxen 0.1.0-v1 took over from luxen 0.1.0-b, update 4"),
        refused(
            "refuse-stream-newer",
            "the next image reads stream versions 3 and 4 only",
            "the image reads stream versions 3 to 4, this hypervisor writes 1 to 2",
        )
        .modules([Module::image(Damage::NewerStream.file(), "luxen-next")]),
        refused(
            "refuse-stream-asked",
            "version 2 is asked for, and the next image reads version 1 alone",
            "lu-stream= asks for stream version 2, the image reads stream versions 1 to 1, this hypervisor writes 1 to 2",
        )
        .options("lu-stream=2")
        .modules([image(v1)]),
        refused(
            "refuse-stream-unknown",
            "a version is asked for that nobody knows",
            "lu-stream= asks for stream version 3, the image reads stream versions 1 to 2, this hypervisor writes 1 to 2",
        )
        .options("lu-stream=3")
        .modules(job::images()),
    ]
}

fn image(name: &str) -> Module {
    Module::image(paths::out(name), name)
}

/// An update for each version, with all guests busy; the streams have to be of these versions.
fn versions(name: &'static str, purpose: &'static str, expected: &[u32]) -> Scenario {
    let count = expected.len() as u32;
    let scenario = Scenario::new(name, purpose)
        .options(&format!("liveupdate=32M lu-first=100 lu-updates={count} lu-every=50 finish=150"))
        .guests(job::guests())
        .updates(count)
        .limit(240);
    (1..).zip(expected).fold(scenario, |scenario, (number, version)| {
        scenario.says(&format!(r#""sequence":{number},.*"stream_version":{version}}}"#))
    })
}

/// An update that is refused for that reason, and guests that go on.
fn refused(name: &'static str, purpose: &'static str, reason: &str) -> Scenario {
    Scenario::new(name, purpose)
        .options("liveupdate=32M lu-first=100 lu-updates=1 expect=refuse finish=200")
        .guests([Guest::new("pulse", "16M"), Guest::new("memory", "32M")])
        .says(&format!("lu: refused: {reason}"))
        .never("took over")
}
