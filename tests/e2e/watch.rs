//! The watched configuration file, written in the ways that editors and orchestrators have.

use std::fs;
use std::os::unix::fs::symlink;

use crate::harness::{Address, Arus, DEADLINE, Setup, eventually};
use crate::ops::{ask, configure, generation, listener, tagged, upstream, with_body};

/// Two configurations that differ by the backend, and an arus with the first.
struct Scene {
    arus: Arus,
    bodies: [String; 2],
    web: Address,
    _backends: [crate::harness::Backend; 2],
}

const TAGS: [&str; 2] = ["a", "b"];

impl Scene {
    fn new(lay: impl FnOnce(&std::path::Path)) -> Self {
        let backends = TAGS.map(tagged);
        let body = |index: usize| upstream("app", &[&backends[index]], "") + &listener("web", "127.0.0.1:0", "app", "");
        let bodies = [body(0), body(1)];
        let setup = Setup::new(&bodies[0]);
        lay(setup.directory());
        let arus = setup.start();
        let web = arus.address("web");
        assert_eq!(ask(&web).1, "a");
        Self { arus, bodies, web, _backends: backends }
    }

    fn text(&self, which: usize) -> String {
        with_body(&self.arus, &self.bodies[which])
    }

    fn await_tag(&self, which: usize) {
        eventually("the change is in force", || (ask(&self.web).1 == TAGS[which]).then_some(()));
    }
}

#[test]
fn a_write_in_place_is_taken_up() {
    let scene = Scene::new(|_| ());
    for which in [1, 0, 1] {
        configure(&scene.arus, &scene.bodies[which]);
        scene.await_tag(which);
    }
}

#[test]
fn a_file_renamed_over_the_old_one_is_taken_up() {
    let scene = Scene::new(|_| ());
    for which in [1, 0, 1] {
        let text = scene.text(which);
        // vim: the old file moves away first, and comes back as a backup.
        let (config, backup) = (scene.arus.config(), scene.arus.directory().join("proxy.toml~"));
        fs::rename(config, &backup).unwrap();
        let new = scene.arus.directory().join(".proxy.toml.swp");
        fs::write(&new, text).unwrap();
        fs::rename(&new, config).unwrap();
        fs::remove_file(&backup).unwrap();
        scene.await_tag(which);
    }
}

#[test]
fn a_swapped_data_link_is_taken_up() {
    let swap = |directory: &std::path::Path, to: &str| {
        let link = directory.join("..data_tmp");
        symlink(to, &link).unwrap();
        fs::rename(&link, directory.join("..data")).unwrap();
    };
    // As a ConfigMap is mounted.
    let scene = Scene::new(|directory| {
        fs::create_dir(directory.join("..2026_1")).unwrap();
        swap(directory, "..2026_1");
        symlink("..data/proxy.toml", directory.join("proxy.toml")).unwrap();
    });
    let directory = scene.arus.directory().to_path_buf();
    for (number, which) in [(2, 1), (3, 0), (4, 1)] {
        let text = scene.text(which);
        let version = format!("..2026_{number}");
        fs::create_dir(directory.join(&version)).unwrap();
        fs::write(directory.join(&version).join("proxy.toml"), text).unwrap();
        swap(&directory, &version);
        fs::remove_dir_all(directory.join(format!("..2026_{}", number - 1))).unwrap();
        scene.await_tag(which);
    }
}

#[test]
fn a_bad_version_is_reported_and_the_next_good_one_taken() {
    let scene = Scene::new(|_| ());
    let before = generation(&scene.arus);
    configure(&scene.arus, &scene.bodies[1].replace("backends", "backend"));
    let place = format!("{}:", scene.arus.config().display());
    let is_place = |message: &str| message.starts_with(&place) && message.contains("did you mean `backends`?");
    scene.arus.log.wait(DEADLINE, "the error with its place", |lines| {
        lines.iter().any(|line| line["message"].as_str().is_some_and(is_place)).then_some(())
    });
    assert_eq!((generation(&scene.arus), ask(&scene.web).1.as_str()), (before, "a"));
    configure(&scene.arus, &scene.bodies[1]);
    scene.await_tag(1);
}

#[test]
fn the_same_content_again_is_no_change() {
    let scene = Scene::new(|_| ());
    let text = scene.text(0);
    for _ in 0..3 {
        fs::write(scene.arus.config(), &text).unwrap();
    }
    // A comment is new content with the same meaning.
    fs::write(scene.arus.config(), format!("{text}# nothing\n")).unwrap();
    configure(&scene.arus, &scene.bodies[1]);
    scene.await_tag(1);
    assert_eq!(generation(&scene.arus), 2);
}

#[test]
fn a_file_that_goes_and_comes_back_is_taken_up() {
    let scene = Scene::new(|_| ());
    let text = scene.text(1);
    fs::remove_file(scene.arus.config()).unwrap();
    let refused = crate::ops::reload(&scene.arus).unwrap_err();
    assert!(refused.contains("proxy.toml:1:1: ") && refused.contains("nothing was changed"), "{refused}");
    assert_eq!(ask(&scene.web).1, "a");
    fs::write(scene.arus.config(), text).unwrap();
    scene.await_tag(1);
}
