//! The Service environment variables of a pod (`pkg/kubelet/envvars`): a static pod that starts offline gets none from
//! the kubelet, so they are written into its manifest.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::object::{Kind, Object};

/// Variables for a pod in `namespace`, by name.
///
/// As the kubelet does it: every Service of the pod's namespace with a cluster IP if `links` (`enableServiceLinks`) is
/// set, and `kubernetes` of namespace `default` always. Where two Services give one variable, the kubelet's choice is
/// random; here the later name wins, so that the bytes are stable. A Service that can't be read is left out.
pub(super) fn environment(namespace: &str, links: bool, services: &[Object]) -> BTreeMap<String, String> {
    let mut seen: BTreeMap<&str, Service> = BTreeMap::new();
    for object in services.iter().filter(|object| object.key.kind() == Kind::Service) {
        let (of, name) = (object.key.namespace(), object.key.name());
        // A name that starts with a digit (alpha: RelaxedServiceNameValidation) gives variables for which kubelets before
        // 1.35 refuse a static pod as a whole.
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let is_master = of == "default" && name == "kubernetes";
        let is_own = links && of == namespace;
        if !is_master && !is_own {
            continue;
        }
        // A Service named `kubernetes` of the pod's own namespace replaces the one of `default`.
        if is_master && namespace != "default" && seen.contains_key(name) {
            continue;
        }
        let Ok(service) = serde_json::from_slice::<Service>(object.body.expose()) else { continue };
        if !matches!(service.spec.cluster_ip.as_str(), "" | "None") {
            seen.insert(name, service);
        }
    }
    let mut all = BTreeMap::new();
    for (name, service) in seen {
        variables(&variable_name(name), &service.spec, &mut all);
    }
    all
}

#[derive(Deserialize)]
struct Service {
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "clusterIP", default)]
    cluster_ip: String,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Deserialize)]
struct Port {
    name: Option<String>,
    port: u16,
    protocol: Option<String>,
}

fn variables(service: &str, spec: &Spec, all: &mut BTreeMap<String, String>) {
    let ip = &spec.cluster_ip;
    let Some(first) = spec.ports.first() else { return };
    all.insert(format!("{service}_SERVICE_HOST"), ip.clone());
    all.insert(format!("{service}_SERVICE_PORT"), first.port.to_string());
    for (n, port) in spec.ports.iter().enumerate() {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            all.insert(format!("{service}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
        let number = port.port.to_string();
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
        let url = format!("{}://{host}:{number}", protocol.to_lowercase());
        let link = format!("{service}_PORT_{number}_{}", protocol.to_uppercase());
        if n == 0 {
            all.insert(format!("{service}_PORT"), url.clone());
        }
        all.insert(format!("{link}_PROTO"), protocol.to_lowercase());
        all.insert(format!("{link}_PORT"), number);
        all.insert(format!("{link}_ADDR"), ip.clone());
        all.insert(link, url);
    }
}

/// As the kubelet makes it (`pkg/kubelet/envvars`, `makeEnvVariableName`).
fn variable_name(name: &str) -> String {
    name.replace(['-', '.'], "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::object::ObjectKey;
    use super::*;

    fn service(namespace: &str, name: &str, spec: Value) -> Object {
        let key = ObjectKey::new(Kind::Service, namespace, name).unwrap();
        Object {
            key,
            uid: String::new(),
            resource_version: String::new(),
            body: json!({ "spec": spec }).to_string().into(),
        }
    }

    fn shown(namespace: &str, links: bool, services: &[Object]) -> Vec<String> {
        environment(namespace, links, services).into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn the_variables_of_one_service() {
        let spec = json!({"clusterIP": "10.0.0.1", "ports": [
            {"name": "https", "port": 443}, {"name": "dns-udp", "port": 53, "protocol": "UDP"}]});
        assert_eq!(
            shown("default", true, &[service("default", "my-db", spec)]),
            [
                "MY_DB_PORT=tcp://10.0.0.1:443",
                "MY_DB_PORT_443_TCP=tcp://10.0.0.1:443",
                "MY_DB_PORT_443_TCP_ADDR=10.0.0.1",
                "MY_DB_PORT_443_TCP_PORT=443",
                "MY_DB_PORT_443_TCP_PROTO=tcp",
                "MY_DB_PORT_53_UDP=udp://10.0.0.1:53",
                "MY_DB_PORT_53_UDP_ADDR=10.0.0.1",
                "MY_DB_PORT_53_UDP_PORT=53",
                "MY_DB_PORT_53_UDP_PROTO=udp",
                "MY_DB_SERVICE_HOST=10.0.0.1",
                "MY_DB_SERVICE_PORT=443",
                "MY_DB_SERVICE_PORT_DNS_UDP=53",
                "MY_DB_SERVICE_PORT_HTTPS=443",
            ]
        );
        let v6 = json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]});
        assert_eq!(shown("default", true, &[service("default", "six", v6.clone())])[0], "SIX_PORT=tcp://[fd00::1]:80");
        assert_eq!(shown("default", true, &[service("default", "6to4", v6)]), [""; 0]);
        // What `kubectl create service --tcp=80:80` calls its port.
        let digits = json!({"clusterIP": "10.0.0.1", "ports": [{"name": "80-80", "port": 80}]});
        let web = shown("default", true, &[service("default", "web", digits)]);
        assert!(web.contains(&"WEB_SERVICE_PORT_80_80=80".to_owned()), "{web:?}");
    }

    #[test]
    fn which_services_a_pod_sees() {
        let spec = |ip| json!({"clusterIP": ip, "ports": [{"port": 1}]});
        let all = [
            service("default", "kubernetes", spec("10.0.0.1")),
            service("default", "web", spec("10.0.0.2")),
            service("shop", "db", spec("10.0.0.3")),
            service("shop", "headless", spec("None")),
            service("shop", "external", json!({"type": "ExternalName"})),
        ];
        let hosts = |namespace, links| {
            let all = shown(namespace, links, &all);
            all.into_iter().filter(|line| line.contains("_HOST=")).collect::<Vec<_>>().join(" ")
        };
        #[rustfmt::skip]
        let rows = [
            ("default", true,  "KUBERNETES_SERVICE_HOST=10.0.0.1 WEB_SERVICE_HOST=10.0.0.2"),
            ("default", false, "KUBERNETES_SERVICE_HOST=10.0.0.1"),
            ("shop",    true,  "DB_SERVICE_HOST=10.0.0.3 KUBERNETES_SERVICE_HOST=10.0.0.1"),
            ("shop",    false, "KUBERNETES_SERVICE_HOST=10.0.0.1"),
        ];
        for (namespace, links, want) in rows {
            assert_eq!(hosts(namespace, links), want, "{namespace} {links}");
        }
        let mut two =
            [service("default", "kubernetes", spec("10.0.0.1")), service("shop", "kubernetes", spec("10.0.0.5"))];
        for _ in 0..2 {
            two.reverse();
            assert_eq!(environment("shop", true, &two)["KUBERNETES_SERVICE_HOST"], "10.0.0.5");
            assert_eq!(environment("shop", false, &two)["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
        }
    }
}
