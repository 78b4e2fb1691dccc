//! What the stack's configuration for platforms without root promises, and what the image is like: the numbers the platform files must agree with.

use std::path::Path;
use std::time::Duration;

use firstmate::config::{self, Http, Inputs};
use firstmate::engine::spec::{Kind, ServiceId, Spec};

use super::tools::{file, text};

/// Where the image has it.
pub const CONFIG: &str = "/srv/stack/nonroot.toml";
pub const BINARY: &str = "/usr/local/bin/firstmate";
/// What the programs write to. All else may be read-only.
pub const WRITABLE: [&str; 3] = ["/srv/stack/run", "/srv/stack/data", "/tmp"];
/// The one that is worth keeping.
pub const KEPT: &str = "/srv/stack/data";
/// What nginx listens on.
pub const WEB: u64 = 8080;

pub struct Promise {
    pub spec: Spec,
    /// firstmate's own port.
    pub port: u64,
}

impl Promise {
    pub fn new() -> Self {
        let loaded = config::load(&file("examples/all-in-one/nonroot.toml"), &Inputs::default())
            .unwrap_or_else(|complaints| panic!("{complaints:#?}"));
        assert_eq!(loaded.warnings, [], "nonroot.toml");
        let Http::On(address) = loaded.settings.http else { panic!("nonroot.toml must name its address: {:?}", loaded.settings.http) };
        // Probes come from the node, to the Pod's own address.
        assert!(address.ip().is_unspecified(), "{address} cannot be reached from outside");
        let socket = loaded.settings.socket.expect("nonroot.toml must name its socket: where the default is depends on the platform");
        assert!(socket.starts_with(file("examples/all-in-one/run")), "{} is not where this user may write", socket.display());
        Self { spec: loaded.spec, port: address.port().into() }
    }

    /// How long one service may take to be ready before firstmate itself calls it failed.
    pub fn slowest_start(&self) -> Duration {
        self.spec.services.iter().map(|service| service.start_timeout).max().unwrap()
    }

    /// The longest chain of grace periods, those of who depends on a service before its own.
    fn longest_stop(&self) -> Duration {
        let services = &self.spec.services;
        (0..services.len()).map(|last| self.chain(ServiceId(last))).max().unwrap()
    }

    fn chain(&self, of: ServiceId) -> Duration {
        let services = &self.spec.services;
        let own = services[of.0].stop.timeout;
        // While a oneshot runs, those that wait for its end do not.
        if services[of.0].kind == Kind::Oneshot {
            return own;
        }
        let dependents = (0..services.len()).filter(|one| services[*one].depends_on.iter().any(|needed| needed.service == of));
        let before = dependents.map(|one| self.chain(ServiceId(one))).max().unwrap_or_default();
        before.saturating_add(own)
    }
}

/// An image whose tag never moves.
pub fn is_pinned(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap();
    name.contains("@sha256:") || name.split_once(':').is_some_and(|(_, tag)| tag != "latest" && tag.contains('.'))
}

#[test]
fn all_that_stops_the_stack_fits_into_its_own_time() {
    let promise = Promise::new();
    let needed = promise.spec.drain.saturating_add(promise.longest_stop());
    assert!(needed < promise.spec.stop_timeout, "{needed:?} of {:?}", promise.spec.stop_timeout);
    // The sentence at the top of the file.
    assert!(
        text("examples/all-in-one/nonroot.toml").contains(&format!("Stopping takes {} s at worst", needed.as_secs_f64())),
        "{needed:?}"
    );
}

#[test]
fn the_two_files_of_the_stack_differ_in_nothing_else() {
    /// The services as written, without what only root may do.
    fn services(path: &str) -> Vec<String> {
        let text = text(path);
        let (_, services) = text.split_once("\n[services.").unwrap();
        let only_roots = |line: &&str| !["user = ", "group = ", "umask = "].iter().any(|key| line.starts_with(key));
        services.lines().filter(only_roots).map(str::to_owned).collect()
    }
    assert_eq!(services("examples/all-in-one/nonroot.toml"), services("examples/all-in-one/firstmate.toml"));
    // Only root may become somebody else.
    assert!(Promise::new().spec.services.iter().all(|service| service.launch.user.is_none() && service.launch.group.is_none()));
}

#[test]
fn the_image_is_as_the_platform_files_take_it_to_be() {
    for dockerfile in ["Dockerfile.debian", "Dockerfile.alpine"] {
        let text = text(dockerfile);
        let has = |line: &str| assert!(text.lines().any(|own| own.contains(line)), "{dockerfile}: {line}");
        has("WORKDIR /srv/stack");
        has("COPY examples/all-in-one/firstmate.toml examples/all-in-one/nonroot.toml ./");
        has(&format!("COPY ${{BINARY}} {BINARY}"));
        has("ENTRYPOINT [\"firstmate\"]");
        // Group 0 may write: a volume that is made from the image keeps owner and mode.
        has("chown redis:root data && chmod 0770 data");
        has(&format!("VOLUME {KEPT}"));
    }
    assert_eq!(Path::new(CONFIG).parent(), Some(Path::new("/srv/stack")));
    assert!(text("examples/all-in-one/conf/nginx.conf").contains(&format!("listen {WEB};")));
}

#[test]
fn a_tag_that_moves_is_recognised() {
    for loose in ["badges", "badges:latest", "registry.example.com:5000/badges", "registry.example.com/badges:stable"] {
        assert!(!is_pinned(loose), "{loose}");
    }
    assert!(is_pinned("registry.example.com:5000/badges:1.0.0"));
}
