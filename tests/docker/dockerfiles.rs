//! What the Dockerfiles promise, read from their text; no daemon is needed.

const FILES: [(&str, &str); 2] =
    [("Dockerfile.debian", include_str!("../../Dockerfile.debian")), ("Dockerfile.alpine", include_str!("../../Dockerfile.alpine"))];

/// The instructions, continuation lines joined, comments left out.
fn instructions(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    joined.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A tag that somebody could move, or none at all, is as good as `latest`.
fn is_pinned(image: &str) -> bool {
    let Some((_, tag)) = image.rsplit_once(':') else { return false };
    tag != "latest" && tag.split(['-', '.']).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit())).count() >= 1 && tag.len() >= 6
}

#[test]
fn images_are_pinned() {
    for (file, text) in FILES {
        let instructions = instructions(text);
        let arguments: Vec<_> = instructions.iter().filter_map(|line| line.strip_prefix("ARG ")?.split_once('=')).collect();
        let stages: Vec<_> =
            instructions.iter().filter_map(|line| line.strip_prefix("FROM ")?.split_once(" AS ")).map(|(_, stage)| stage).collect();
        let mut bases = 0;
        for line in &instructions {
            let Some(base) = line.strip_prefix("FROM ") else { continue };
            let base = base.split(' ').next().unwrap();
            if stages.contains(&base) {
                continue;
            }
            let name = base.strip_prefix("${").and_then(|name| name.strip_suffix('}'));
            let image = name.map_or(base, |name| arguments.iter().find(|(argument, _)| *argument == name).expect(name).1);
            assert!(is_pinned(image), "{file}: {image}");
            bases += 1;
        }
        assert!(bases >= 2, "{file}: {instructions:#?}");
        assert!(!text.contains(":latest"), "{file}");
    }
    for loose in ["debian", "debian:latest", "debian:bookworm-slim", "rust:1"] {
        assert!(!is_pinned(loose), "{loose}");
    }
}

#[test]
fn firstmate_is_the_entry_point_and_answers_for_health() {
    for (file, text) in FILES {
        let instructions = instructions(text);
        let has = |wanted: &dyn Fn(&str) -> bool| instructions.iter().any(|line| wanted(line));
        assert!(has(&|line| line == "ENTRYPOINT [\"firstmate\"]"), "{file}");
        assert!(has(&|line| line == "STOPSIGNAL SIGTERM"), "{file}");
        assert!(has(&|line| line.starts_with("HEALTHCHECK ") && line.ends_with("CMD [\"firstmate\", \"check\", \"ready\"]")), "{file}");
        assert!(has(&|line| line.starts_with("VOLUME ")), "{file}");
        // Whoever copies a thing in must name it: a secret never gets in by `COPY . .`.
        assert!(!has(&|line| line.starts_with("COPY . ") || line.starts_with("ADD ")), "{file}");
    }
    let ignored: Vec<_> = include_str!("../../.dockerignore").lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(ignored.first(), Some(&"*"), "an allow-list begins by leaving out everything");
}
