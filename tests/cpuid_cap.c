/* Preloaded, it makes this process see an older CPU: `cpuid` answers without what $EDGE_LAB_CPUID_OFF lists.

   Linux lets a process have `cpuid` fault (arch_prctl(ARCH_SET_CPUID), Intel since Ivy Bridge); the handler runs the real
   one and takes bits away. Engines that ask `cpuid` themselves (XNNPACK, MLAS, oneDNN, ATen) then take older kernels.
   $EDGE_LAB_CPUID_OFF: LEAF.SUBLEAF.REGISTER.BITS,... in hexadecimal, registers 0-3 are eax, ebx, ecx, edx. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { SET_CPUID = 0x1012, MOST = 32 };
static struct { unsigned leaf, subleaf, reg, bits; } off[MOST];
static int count;

static void faults(int yes) { syscall(SYS_arch_prctl, SET_CPUID, (unsigned long)!yes); }

static void on_fault(int signal_, siginfo_t *info, void *context) {
  (void)info;
  greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *at = (const unsigned char *)g[REG_RIP];
  if (at[0] != 0x0f || at[1] != 0xa2) { /* a real fault: die of it */
    signal(signal_, SIG_DFL);
    return;
  }
  unsigned leaf = (unsigned)g[REG_RAX], subleaf = (unsigned)g[REG_RCX], r[4];
  faults(0);
  __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "0"(leaf), "2"(subleaf));
  faults(1);
  for (int i = 0; i < count; i++)
    if (off[i].leaf == leaf && (off[i].subleaf == subleaf || leaf != 7)) r[off[i].reg] &= ~off[i].bits;
  g[REG_RAX] = r[0], g[REG_RBX] = r[1], g[REG_RCX] = r[2], g[REG_RDX] = r[3];
  g[REG_RIP] += 2;
}

static int (*real_sigaction(void))(int, const struct sigaction *, struct sigaction *) {
  return (int (*)(int, const struct sigaction *, struct sigaction *))dlsym(RTLD_NEXT, "sigaction");
}

/* Python's faulthandler would take the handler away. */
int sigaction(int number, const struct sigaction *now, struct sigaction *before) {
  if (number == SIGSEGV && count && now && now->sa_sigaction != on_fault) {
    if (before) memset(before, 0, sizeof *before);
    return 0;
  }
  return real_sigaction()(number, now, before);
}

__attribute__((constructor)) static void begin(void) {
  const char *text = getenv("EDGE_LAB_CPUID_OFF");
  for (int used; text && count < MOST; text += used + (text[used] == ',')) {
    if (sscanf(text, "%x.%x.%x.%x%n", &off[count].leaf, &off[count].subleaf, &off[count].reg, &off[count].bits, &used) != 4)
      break;
    off[count++].reg &= 3;
  }
  if (!count) return;
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  real_sigaction()(SIGSEGV, &action, NULL);
  if (syscall(SYS_arch_prctl, SET_CPUID, 0UL) != 0) {
    fputs("cpuid_cap: this CPU or kernel can't make cpuid fault\n", stderr);
    _exit(77);
  }
}
