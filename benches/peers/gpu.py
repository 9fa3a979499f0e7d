import torch, time, sys
def ms(f,n=3):
    f();torch.cuda.synchronize();ts=[]
    for _ in range(n):
        t=time.perf_counter();f();torch.cuda.synchronize();ts.append((time.perf_counter()-t)*1e3)
    return sorted(ts)[n//2]
for k,name,tf in ((5,'tf32',True),(5,'f32',False),(7,'tf32',True)):
    torch.backends.cudnn.allow_tf32=tf
    x=torch.randn(8,144,64,64,64,device='cuda',requires_grad=True); w=torch.randn(144,144,k,k,k,device='cuda',requires_grad=True)
    y=torch.nn.functional.conv3d(x.detach(),w.detach(),padding=k//2); g=torch.ones_like(y)
    fwd=ms(lambda: torch.nn.functional.conv3d(x.detach(),w.detach(),padding=k//2))
    def fb():
        x.grad=w.grad=None
        torch.nn.functional.conv3d(x,w,padding=k//2).backward(g)
    print('torch k=%d %s fwd %.1f both %.1f'%(k,name,fwd,ms(fb)),flush=True)
    del x,w,y,g
