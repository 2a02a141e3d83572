// The least that a container takes: clone3 with the namespaces of the bundle, a private mount tree, the root, /proc,
// pivot_root, and the program. What `cargo xtask bench raw` compares runtimes with.
//
//   floor ROOTFS PROGRAM [ARGS…]
#define _GNU_SOURCE
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(long result, const char *what) {
    if (result < 0) {
        perror(what);
        _exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    struct clone_args args = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS,
        .exit_signal = SIGCHLD,
    };
    long child = syscall(SYS_clone3, &args, sizeof args);
    must(child, "clone3");
    if (child == 0) {
        must(mount("", "/", NULL, MS_PRIVATE | MS_REC, NULL), "private");
        must(mount(argv[1], argv[1], NULL, MS_BIND | MS_REC, NULL), "bind");
        must(chdir(argv[1]), "chdir");
        must(mount("proc", "proc", "proc", 0, NULL), "proc");
        must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
        must(umount2(".", MNT_DETACH), "umount");
        must(chdir("/"), "chdir");
        execve(argv[2], argv + 2, (char *[]){NULL});
        must(-1, "execve");
    }
    int status;
    must(waitpid((pid_t)child, &status, 0), "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
