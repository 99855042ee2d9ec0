package kubelet

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	apiServerAddr = "127.0.0.1:6443"
	etcdURL       = "http://127.0.0.1:2379"
	// token authenticates clients to the API server; there is one user.
	token = "e2e"
)

// apiServer is a running API server with its store and nothing else: no
// controllers and no scheduler.
type apiServer struct {
	etcd, process *process
	client        kubernetes.Interface
	http          *http.Client
}

// apiConfig is how clients reach the API server, which has a self-signed
// certificate.
func apiConfig() *rest.Config {
	return &rest.Config{Host: "https://" + apiServerAddr, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: -1}
}

// startAPIServer starts an API server with an empty store, and creates the
// tests' namespace.
func (n *node) startAPIServer() (*apiServer, error) {
	client, err := rest.HTTPClientFor(apiConfig())
	if err != nil {
		return nil, err
	}
	clients, err := kubernetes.NewForConfigAndClient(apiConfig(), client)
	if err != nil {
		return nil, err
	}
	dir := n.path("apiserver")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700), writeKey(dir+"/accounts.key"),
		os.WriteFile(dir+"/tokens.csv", []byte(token+",e2e,e2e\n"), 0o600), writeKubeconfig(n.kubeconfig())); err != nil {
		return nil, err
	}
	s := &apiServer{client: clients, http: client}
	s.etcd, err = startProcess(n.path("etcd.log"), os.Getenv("CRIDOCK_E2E_ETCD"), "--data-dir="+dir+"/etcd", "--unsafe-no-fsync",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL, "--listen-peer-urls=http://127.0.0.1:2380")
	if err != nil {
		return nil, err
	}
	s.process, err = startProcess(n.path("kube-apiserver.log"), os.Getenv("CRIDOCK_E2E_APISERVER"),
		"--etcd-servers="+etcdURL, "--bind-address=127.0.0.1", "--advertise-address="+nodeIP, "--endpoint-reconciler-type=none",
		"--cert-dir="+dir, "--token-auth-file="+dir+"/tokens.csv", "--authorization-mode=AlwaysAllow",
		"--service-account-issuer=https://"+apiServerAddr, "--service-account-key-file="+dir+"/accounts.key", "--service-account-signing-key-file="+dir+"/accounts.key",
		"--service-cluster-ip-range=10.96.0.0/24", "--kubelet-preferred-address-types=InternalIP",
		// The accounts themselves would need a controller.
		"--disable-admission-plugins=ServiceAccount")
	if err != nil {
		return nil, errors.Join(err, s.etcd.stop())
	}
	if err := s.awaitNamespace(); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// awaitNamespace creates the namespace once the API server serves.
func (s *apiServer) awaitNamespace() error {
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := s.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		if err == nil {
			_, err = s.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
		}
		cancel()
		if err == nil || apierrors.IsAlreadyExists(err) { // an attempt that was not answered
			return nil
		}
		for _, p := range []*process{s.etcd, s.process} {
			select {
			case <-p.done:
				return fmt.Errorf("%s ended: %v\n%s", p.cmd.Path, p.cmd.ProcessState, p.tail())
			default:
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("the API server is not ready: %w\n%s", err, s.process.tail())
		}
	}
}

// nodeReady reports whether the kubelet has registered itself and reports its
// node as ready, which takes a while.
func (s *apiServer) nodeReady() bool {
	node, err := s.client.CoreV1().Nodes().Get(context.Background(), nodeName, metav1.GetOptions{})
	if err != nil {
		return false
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (s *apiServer) pods() typedcorev1.PodInterface { return s.client.CoreV1().Pods(namespace) }

// create gives the API server a pod that is already scheduled to the node.
func (k *kubelet) create(pod *corev1.Pod) (*live, error) {
	pod.Spec.NodeName = nodeName
	made, err := k.api.pods().Create(context.Background(), pod, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return &live{kubelet: k, name: pod.Name, started: time.Now(), uid: string(made.UID)}, nil
}

// object returns the pod as the API server has it; nil if it is gone.
func (l *live) object() *corev1.Pod {
	l.t.Helper()
	var pod *corev1.Pod
	persistently(l.t, func() (err error) {
		pod, err = l.api.pods().Get(context.Background(), l.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			pod, err = nil, nil
		}
		return err
	})
	return pod
}

// stop ends both.
func (s *apiServer) stop() error { return errors.Join(s.process.stop(), s.etcd.stop()) }

// writeKey creates the key that signs service accounts' tokens.
func writeKey(path string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600)
}

func (n *node) kubeconfig() string { return n.path("kubeconfig") }

// writeKubeconfig is apiConfig for the kubelet.
func writeKubeconfig(path string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["e2e"] = &clientcmdapi.Cluster{Server: apiConfig().Host, InsecureSkipTLSVerify: true}
	config.AuthInfos["e2e"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["e2e"] = &clientcmdapi.Context{Cluster: "e2e", AuthInfo: "e2e"}
	config.CurrentContext = "e2e"
	return clientcmd.WriteToFile(*config, path)
}
