// Loaded before the C library (LD_PRELOAD), this refuses whatever would leave the machine, whoever asks for it, and
// logs it in the file NETWORK_GUARD_LOG: a line for each name looked up and each address reached for.
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

namespace {

void note(const char* what, const char* where) {
  if (FILE* log = fopen(getenv("NETWORK_GUARD_LOG"), "a")) {
    fprintf(log, "%s %s\n", what, where);
    fclose(log);
  }
}

bool is_local(const char* name) {
  return name == nullptr || !*name || !strcmp(name, "localhost") || !strncmp(name, "127.", 4) || !strcmp(name, "::1");
}

bool refused(const char* what, const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address && address->sa_family == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, text, sizeof text);
  } else if (address && address->sa_family == AF_INET6) {
    inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr, text, sizeof text);
  }
  if (is_local(text)) return false;
  note(what, text);
  errno = ENETUNREACH;
  return true;
}

template <class Function>
Function* next(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int getaddrinfo(const char* node, const char* service, const addrinfo* hints, addrinfo** found) {
  if (is_local(node)) return next(getaddrinfo, "getaddrinfo")(node, service, hints, found);
  note("getaddrinfo", node);
  return EAI_FAIL;
}

hostent* gethostbyname(const char* name) {
  if (is_local(name)) return next(gethostbyname, "gethostbyname")(name);
  note("gethostbyname", name);
  h_errno = NO_RECOVERY;
  return nullptr;
}

int gethostbyname_r(const char* name, hostent* entry, char* buffer, size_t size, hostent** found, int* error) {
  if (is_local(name)) return next(gethostbyname_r, "gethostbyname_r")(name, entry, buffer, size, found, error);
  note("gethostbyname_r", name);
  *found = nullptr;
  return *error = NO_RECOVERY;
}

int connect(int fd, const sockaddr* address, socklen_t size) {
  return refused("connect", address) ? -1 : next(connect, "connect")(fd, address, size);
}

ssize_t sendto(int fd, const void* data, size_t n, int flags, const sockaddr* address, socklen_t size) {
  return refused("sendto", address) ? -1 : next(sendto, "sendto")(fd, data, n, flags, address, size);
}

ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  if (refused("sendmsg", static_cast<const sockaddr*>(message->msg_name))) return -1;
  return next(sendmsg, "sendmsg")(fd, message, flags);
}
}
