/* A library for LD_PRELOAD on the host's side: leaves a mark wherever it is loaded, which a runtime must not let happen. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((constructor)) static void loaded(void)
{
	const char *mark = getenv("PRELOAD_MARK");
	if (mark)
		close(open(mark, O_CREAT | O_WRONLY, 0600));
}
