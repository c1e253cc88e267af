/* Says the security label of the session keyring, whoever it belongs to: keyctl_get_security(3). */
#include "bare.h"

#define KEYCTL_GET_SECURITY 17
#define KEY_SPEC_SESSION_KEYRING -3

void begin(long *stack)
{
	static char label[512];
	long length = call(SYS_keyctl, KEYCTL_GET_SECURITY, KEY_SPEC_SESSION_KEYRING, (long)label, sizeof label - 1, 0);
	(void)stack, (void)is, (void)join;
	say("keyring", length < 0 ? "unknown" : label);
	call(SYS_exit, length < 0, 0, 0, 0, 0);
}
